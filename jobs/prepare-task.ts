/**
 * `prepare-task`: judges a new task's references again and brings its inputs into our own storage, while no GPU is
 * held. Then the task waits. May run twice: what was fetched once is found by its bytes.
 */
import { z } from "zod";
import type { Sql } from "../src/db/client.ts";
import { dispatchSoon } from "../src/db/queue.ts";
import { gatherPictures, type Verdict } from "./gather-pictures.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ task_id: z.int() });
const filePrefix = "/api/files/";

interface TaskRow {
  id: number;
  type: "train" | "infer";
  user_id: number;
  model_id: number | null;
  /** The task was ordered with a model, which may have been deleted since. */
  wants_model: boolean;
}

/** Why a task cannot be prepared: told to its owner. */
class Unprepared extends Error {
  override readonly name = "Unprepared";
}

export function createPrepareTask(deps: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    const { sql } = deps;
    const { task_id } = payloadSchema.parse(payload);
    const [task] = await sql<(TaskRow & { status: string })[]>`
      select id, type, user_id, model_id, params->>'model_id' is not null as wants_model, status
      from tasks
      where id = ${task_id} and status in ('initial', 'ready')
    `;
    // One that is ready was left there by a worker that died between the two.
    if (!task || (task.status === "initial" && !(await makeReady(deps, task)))) return;
    await sql.begin(async (tx) => {
      await tx`update tasks set status = 'waiting', waiting_at = now() where id = ${task.id} and status = 'ready'`;
      await dispatchSoon(tx as unknown as Sql);
    });
  };
}

/** @returns false when the task has failed, for a reason that its owner is told */
async function makeReady(deps: JobDeps, task: TaskRow): Promise<boolean> {
  const { sql } = deps;
  try {
    const keys = task.type === "train" ? await prepareTraining(deps, task) : await prepareInference(deps, task);
    await sql.begin(async (tx) => {
      // From here on the task itself holds them; what went in the meantime has to be judged again.
      const held = await tx`select key from files where key = any (${keys}::text[]) for key share`;
      if (held.length < new Set(keys).size) throw new Error("an input was deleted while it was judged");
      await tx`
        update tasks set status = 'ready', input_keys = ${keys}::text[] where id = ${task.id} and status = 'initial'
      `;
    });
    return true;
  } catch (error) {
    if (!(error instanceof Unprepared)) throw error;
    const told = sql.json({ class: "bad-input", detail: error.message });
    await sql`
      update tasks set status = 'error', error = ${told}, finished_at = now()
      where id = ${task.id} and status = 'initial'
    `;
    return false;
  }
}

/** Pins the training to the exact pictures: the manifest, by content. @returns the keys of the stored pictures */
async function prepareTraining(deps: JobDeps, task: TaskRow): Promise<string[]> {
  const { sql } = deps;
  const [dataset] = await sql<
    {
      id: number;
      images: string[];
      captions: Record<string, string>;
      is_own: boolean;
      words: string;
      name: string;
    }[]
  >`
    select d.id, d.images, d.captions, d.user_id = u.id as is_own, m.trigger_words as words, m.name
    from models m
    join datasets d on d.id = m.dataset_id
    join users u on u.id = ${task.user_id}
    where m.id = ${task.model_id}
      and (d.public or d.user_id = u.id or u.admin)
  `;
  if (!dataset) throw new Unprepared("The data set is gone, or not yours to see any more");
  const verdicts = await gatherPictures(deps, dataset.images, task.user_id);
  const usable = verdicts.filter((verdict) => verdict.status === "ok");
  const report = verdicts.map(({ url, status, detail }) => ({ url, status, detail }));
  const manifest = usable.map(({ key, hash, url }) => ({
    ...{ key, url, hash },
    // Engines fail on an empty caption: the trigger words are what the picture teaches.
    caption: dataset.captions[url]?.trim() || dataset.words || dataset.name,
  }));
  await sql.begin(async (tx) => {
    if (dataset.is_own) await tx`update datasets set report = ${tx.json(report)} where id = ${dataset.id}`;
    await tx`
      update tasks
      set manifest = ${tx.json(manifest)}, pictures = ${tx.json(countVerdicts(verdicts))}
      where id = ${task.id}
    `;
  });
  if (usable.length === 0) {
    const first = report.find((entry) => entry.detail);
    throw new Unprepared(
      report.length === 0
        ? "The data set has no pictures"
        : `None of the ${report.length} pictures can be used; the first: ${first?.status}, ${first?.detail}`,
    );
  }
  return usable.map(({ key }) => key);
}

function countVerdicts(verdicts: Verdict[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { status } of verdicts) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

async function prepareInference(deps: JobDeps, task: TaskRow): Promise<string[]> {
  const { sql } = deps;
  const keys: string[] = [];
  if (task.wants_model) {
    const [model] = await sql<{ model_path: string }[]>`
      select m.model_path
      from models m
      join users u on u.id = ${task.user_id}
      where m.id = ${task.model_id}
        and m.model_path is not null
        and (m.public or m.user_id = u.id or u.admin)
    `;
    if (!model) throw new Unprepared("The model is gone, or not yours to see any more");
    keys.push(model.model_path);
  }
  const [image] = await sql<{ from_image: string | null }[]>`
    select from_image from images where task_id = ${task.id} order by id limit 1
  `;
  if (image?.from_image) {
    const [verdict] = await gatherPictures(deps, [image.from_image], task.user_id);
    if (verdict?.status !== "ok") throw new Unprepared(`The picture to start from: ${verdict?.detail}`);
    await sql`update images set from_image = ${filePrefix + verdict.key} where task_id = ${task.id}`;
    keys.push(verdict.key);
  }
  return keys;
}

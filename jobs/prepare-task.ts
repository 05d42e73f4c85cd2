/**
 * `prepare-task`: judges a new task's references again and brings its inputs into our own storage, while no GPU is
 * held. Then the task waits. May run twice: what was fetched once is found by its bytes.
 */
import { z } from "zod";
import type { Sql } from "../src/db/client.ts";
import { dispatchSoon } from "../src/db/queue.ts";
import { Problem } from "../src/problems.ts";
import { RemoteError } from "../src/remote/request.ts";
import { fetchRemote } from "../src/storage/fetch-remote.ts";
import { readPicture } from "../src/storage/pictures.ts";
import { keepPicture } from "../src/storage/records.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ task_id: z.int() });
/** Remote pictures fetched at once. */
const parallel = 8;
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

type Verdict =
  | { url: string; status: "ok"; detail: null; key: string }
  | { url: string; status: string; detail: string };

export function createPrepareTask(deps: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    const { sql } = deps;
    const { task_id } = payloadSchema.parse(payload);
    const [task] = await sql<TaskRow[]>`
      select id, type, user_id, model_id, params->>'model_id' is not null as wants_model
      from tasks
      where id = ${task_id} and status = 'initial'
    `;
    if (!task) return;
    try {
      const keys = task.type === "train" ? await prepareTraining(deps, task) : await prepareInference(deps, task);
      await sql`
        update tasks set status = 'ready', input_keys = ${keys}::text[] where id = ${task.id} and status = 'initial'
      `;
    } catch (error) {
      if (!(error instanceof Unprepared)) throw error;
      const told = sql.json({ class: "bad-input", detail: error.message });
      await sql`
        update tasks set status = 'error', error = ${told}, finished_at = now()
        where id = ${task.id} and status = 'initial'
      `;
      return;
    }
    await sql.begin(async (tx) => {
      await tx`update tasks set status = 'waiting', waiting_at = now() where id = ${task.id} and status = 'ready'`;
      await dispatchSoon(tx as unknown as Sql);
    });
  };
}

/** Pins the training to the exact pictures: the manifest, by content. @returns the keys of the stored pictures */
async function prepareTraining(deps: JobDeps, task: TaskRow): Promise<string[]> {
  const { sql } = deps;
  const [dataset] = await sql<
    { id: number; images: string[]; captions: Record<string, string>; model_id: number; words: string; name: string }[]
  >`
    select d.id, d.images, d.captions, m.id as model_id, m.trigger_words as words, m.name
    from models m
    join datasets d on d.id = m.dataset_id
    join users u on u.id = ${task.user_id}
    where m.id = ${task.model_id}
      and (d.public or d.user_id = u.id or u.admin)
  `;
  if (!dataset) throw new Unprepared("The data set is gone, or not yours to see any more");
  const verdicts = await bringIn(deps, dataset.images, task.user_id);
  const usable = verdicts.filter((verdict) => "key" in verdict);
  const report = verdicts.map(({ url, status, detail }) => ({ url, status, detail }));
  const files = new Map(
    (
      await sql<{ key: string; hash: string }[]>`
        select key, hash from files where key = any (${usable.map((verdict) => verdict.key)}::text[])
      `
    ).map((file) => [file.key, file.hash]),
  );
  const manifest = usable.map(({ key, url }) => ({
    key,
    url,
    hash: files.get(key) ?? null,
    // Engines fail on an empty caption: the trigger words are what the picture teaches.
    caption: dataset.captions[url]?.trim() || dataset.words || dataset.name,
  }));
  await sql.begin(async (tx) => {
    await tx`update datasets set report = ${tx.json(report)} where id = ${dataset.id}`;
    await tx`update models set manifest = ${tx.json(manifest)} where id = ${dataset.model_id}`;
  });
  if (usable.length === 0) {
    const first = report.find((entry) => entry.detail);
    throw new Unprepared(
      report.length === 0
        ? "The data set has no pictures"
        : `None of the ${report.length} pictures can be used; the first: ${first?.status}, ${first?.detail}`,
    );
  }
  return usable.map((verdict) => verdict.key);
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
    const [verdict] = await bringIn(deps, [image.from_image], task.user_id);
    if (!verdict || !("key" in verdict)) throw new Unprepared(`The picture to start from: ${verdict?.detail}`);
    await sql`update images set from_image = ${filePrefix + verdict.key} where task_id = ${task.id}`;
    keys.push(verdict.key);
  }
  return keys;
}

/** Every picture into our own storage, in order, with a verdict each. */
async function bringIn(deps: JobDeps, urls: string[], userId: number): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < urls.length; index = next++) {
      const url = urls[index] as string;
      verdicts[index] = url.startsWith(filePrefix)
        ? await judgeStored(deps, url, userId)
        : await fetchPicture(deps, url, userId);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return verdicts;
}

async function judgeStored({ sql }: JobDeps, url: string, userId: number): Promise<Verdict> {
  const key = url.slice(filePrefix.length);
  const [file] = await sql`
    select f.key
    from files f
    join users u on u.id = ${userId}
    where f.key = ${key}
      and (f.user_id = u.id or u.admin or is_file_public(f.key, f.user_id))
  `;
  return file
    ? { url, status: "ok", detail: null, key }
    : { url, status: "unreachable", detail: "the picture is gone, or not yours to see any more" };
}

async function fetchPicture({ sql, storage, remote }: JobDeps, url: string, userId: number): Promise<Verdict> {
  try {
    const { stream } = await fetchRemote(url, remote);
    const picture = await readPicture(new Uint8Array(await new Response(stream).arrayBuffer()));
    const { key } = await keepPicture(sql, storage, userId, picture);
    return { url, status: "ok", detail: null, key };
  } catch (error) {
    if (error instanceof RemoteError) return { url, status: error.reason, detail: error.message };
    if (error instanceof Problem && error.status < 500) return { url, status: "not an image", detail: error.message };
    throw error;
  }
}

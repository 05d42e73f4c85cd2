/** What must hold when the dust has settled, whatever happened before. */
import { audit } from "../../../src/storage/audit.ts";
import type { Order } from "./clients.ts";
import type { System } from "./system.ts";

const settleMs = 45_000;

export interface Verdict {
  breaches: string[];
  /** Tasks by their end, with the class of the error. */
  endings: Record<string, number>;
  computed: number;
  /** Computations that an engine's death or fault made necessary again. */
  repeated: number;
  /** Files that belong to nothing yet or any more, for the sweep. */
  leftovers: number;
}

export async function judge(system: System, orders: Order[]): Promise<Verdict> {
  const { sql } = system;
  const breaches: string[] = [];
  const expect = (isSo: boolean, breach: string) => {
    if (!isSo) breaches.push(breach);
  };

  const quiet = await until(async () => {
    const [row] = await sql<{ leases: number; unfinished: number; jobs: number }[]>`
      select (select count(*) from leases)::int as leases,
        (select count(*) from tasks where finished_at is null)::int as unfinished,
        (select count(*) from graphile_worker.jobs
          where task_identifier in ('run-task', 'prepare-task', 'cancel-run', 'delete-files') and attempts < max_attempts)::int as jobs
    `;
    return row && row.leases + row.unfinished + row.jobs === 0 ? null : `still there: ${JSON.stringify(row)}`;
  });
  expect(quiet === null, quiet ?? "");

  // Each order became one task, and each task ended once.
  const tasks = await sql<{ id: number; name: string; status: string; error: { class: string } | null }[]>`
    select id, name, status, error from tasks where name like 'order-%'
  `;
  const byName = Map.groupBy(tasks, ({ name }) => name);
  const endings: Record<string, number> = {};
  for (const order of orders) {
    const [task, ...others] = byName.get(order.name) ?? [];
    expect(task !== undefined && others.length === 0, `${order.name} became ${1 + others.length} tasks`);
    if (!task) continue;
    expect(task.id === order.taskId, `${order.name} was answered as ${order.taskId} and is ${task.id}`);
    const end = task.status === "error" ? `error: ${task.error?.class}` : task.status;
    endings[end] = (endings[end] ?? 0) + 1;
    expect(["success", "error", "canceled"].includes(task.status), `${order.name}, task ${task.id}, is ${task.status}`);
    if (order.canceled) expect(task.status === "canceled", `${order.name} was canceled and is ${task.status}`);
    else expect(task.status !== "canceled", `${order.name} is canceled, and nobody asked for it`);
  }

  // Nothing lost and nothing doubled: pictures, models, files, bytes.
  const images = await sql<{ task_id: number; status: string; file_key: string | null; seed: number }[]>`
    select task_id, status, file_key, seed from images where task_id is not null
  `;
  const byTask = Map.groupBy(images, ({ task_id }) => task_id);
  const success = new Set(tasks.filter(({ status }) => status === "success").map(({ id }) => id));
  for (const { type, taskId, count, name } of orders) {
    if (type !== "infer") continue;
    const made = byTask.get(taskId) ?? [];
    expect(made.length === count, `${name} has ${made.length} images of ${count}`);
    if (success.has(taskId))
      expect(
        made.every(({ file_key }) => file_key !== null),
        `${name} lacks a picture`,
      );
  }
  const [lost] = await sql<{ models: number; unused: number }[]>`
    select
      (select count(*) from models m join tasks t on t.id = m.task_id where t.status = 'success' and m.model_path is null)::int as models,
      (select count(*) from files where not is_file_used(key))::int as unused
  `;
  expect(lost?.models === 0, `${lost?.models} trained models lack their file`);
  let leftovers = lost?.unused ?? 0;
  for await (const finding of audit(sql, system.storage)) {
    // Bytes whose worker was killed before it wrote their row: the nightly sweep takes them away.
    if (finding.kind === "stray") leftovers += 1;
    else breaches.push(`${finding.kind}: ${finding.key}`);
  }

  // No engine is left with work of ours, and none did anything twice without need.
  for (const url of system.engineUrls) {
    const busy = await until(async () => {
      // It may just have been started again.
      const answer = await fetch(`${url}/queue`).catch(() => null);
      if (!answer) return "does not answer";
      const { queue_running, queue_pending } = (await answer.json()) as Record<string, unknown[]>;
      return queue_running?.length || queue_pending?.length ? "still works" : null;
    });
    expect(busy === null, `the engine at ${url} ${busy}`);
  }
  const deeds = system.engines.flatMap((engine) =>
    system
      .computed(engine.name)
      .map((deed) => ({ ...deed, engine: engine.name, life: engine.deaths.filter((at) => at <= deed.at).length })),
  );
  const starts = deeds.filter(({ what }) => what === "begun");
  const failures = new Set(deeds.filter(({ what }) => what === "failed").map(({ id }) => id));
  let repeated = 0;
  for (const [work, runs] of Map.groupBy(starts, ({ makes }) => makes.join())) {
    runs.sort((a, b) => a.at - b.at);
    for (const [index, run] of runs.slice(0, -1).entries()) {
      repeated += 1;
      const next = runs[index + 1];
      const engine = system.engines.find(({ name }) => name === run.engine);
      const died = (engine?.deaths[run.life] ?? Number.POSITIVE_INFINITY) <= (next?.at ?? 0);
      expect(died || failures.has(run.id), `${work} was computed again, and its engine ${run.engine} lived`);
    }
  }
  return { breaches, endings, computed: starts.length, repeated, leftovers };
}

/** @returns null once `check` has nothing to say, else what it said last */
async function until(check: () => Promise<string | null>): Promise<string | null> {
  for (const deadline = Date.now() + settleMs; ; await Bun.sleep(200)) {
    const said = await check();
    if (said === null || Date.now() > deadline) return said;
  }
}

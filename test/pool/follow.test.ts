/** How long a run may go without progress, by what its engine tells: the limits are the database's. */
import { expect, test } from "bun:test";
import type { Driver, EngineEvent } from "../../src/drivers/driver.ts";
import { follow } from "../../src/pool/follow.ts";
import { beat, findLease, heldBy } from "../../src/pool/lease.ts";
import { inferenceJob } from "../drivers/jobs.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const { sql, signUp } = await startApp();
const { server, task, round, clear } = poolRows(sql);
const owner = await signUp();
const steps: EngineEvent = { type: "progress", phase: "steps", step: 1, total: 10 };

/** A run that an engine tells `events` of before it ends. @returns what is said of it so many minutes after the last */
async function run(events: EngineEvent[]) {
  await clear();
  await beat(sql, { id: "w", host: "here", lockedBy: [], concurrency: 4 });
  await server();
  const taskId = await task({ user: owner.id });
  await round();
  const lease = await findLease(sql, "w", { taskId, epoch: 1 });
  const handle = { engine: "comfyui" as const, runId: crypto.randomUUID() };
  async function* watch(): AsyncGenerator<EngineEvent> {
    yield* events;
    yield { type: "finished" };
  }
  await follow({
    sql,
    driver: { watch } as unknown as Driver,
    lease: { ...lease, handle: { part: "train", run: handle } },
    part: "train",
    job: inferenceJob(),
    signal: new AbortController().signal,
    onProgress: async () => {},
  } as unknown as Parameters<typeof follow>[0]);
  let passed = 0;
  return async (minutes: number) => {
    await sql`update leases set stall_at = stall_at - make_interval(mins => ${minutes - passed})`;
    passed = minutes;
    const overdue = (await heldBy(sql, "w")).get(taskId)?.overdue;
    return overdue ? `${overdue.errorClass}: ${overdue.message}` : "running";
  };
}

test.each<[string, EngineEvent[], number]>([
  ["has the limit of its phase", [{ type: "started" }, steps], 5],
  ["that loads has longer", [{ type: "started" }, { ...steps, phase: "loading" }], 15],
  [
    "has as long as its driver says where the engine works in silence",
    [{ type: "silent", forMs: 3_600_000 }, steps],
    60,
  ],
  [
    "has the usual limit again when the silence is over",
    [{ type: "silent", forMs: 3_600_000 }, steps, { type: "silent", forMs: 0 }],
    5,
  ],
  ["that waits behind others there is borne for an hour", [{ type: "queued", position: 2 }], 60],
])("a run %s", async (_name, events, minutes) => {
  const after = await run(events);
  expect(await after(minutes - 1)).toBe("running");
  expect(await after(minutes)).toBe(`stalled: The engine made no progress for ${minutes} minutes`);
});

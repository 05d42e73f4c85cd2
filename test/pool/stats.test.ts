/** The pool in figures, as admins and Prometheus read them. */
import { beforeEach, expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const app = await startApp({ metricsToken: "metrics-token", maxRunningPerUser: 2 });
const { sql } = app;
const { server, task, round, end, clear } = poolRows(sql);
const owner = await app.signUp();
const other = await app.signUp();
const admin = await app.admin();
const stats = async () => (await app.call("GET", "/api/stats", { token: admin.token })).body;

beforeEach(async () => {
  await clear();
  await sql`delete from attempts`;
  await sql`
    insert into workers (id, host, concurrency, expires_at) values ('w', 'here', 50, now() + interval '1 hour')
    on conflict do nothing
  `;
});

test("an empty pool", async () => {
  expect(await stats()).toEqual({
    paused: false,
    workers: { alive: 1, room: 50 },
    waiting: { total: 0, by_type: { train: 0, infer: 0 }, by_reason: [] },
    running: { train: 0, infer: 0 },
    throughput: {
      train: { success: 0, error: 0, retry: 0, canceled: 0 },
      infer: { success: 0, error: 0, retry: 0, canceled: 0 },
    },
    wait_seconds: { train: null, infer: null },
    servers: [],
    webhooks: { pending: 0, failed: 0 },
  });
});

test("what waits is counted by type and by what keeps it first", async () => {
  await server({ slots: 3, foreign: 1 });
  for (let i = 0; i < 4; i += 1) await task({ user: owner.id, age: 100 });
  await round({ maxRunning: 2 });
  await task({ user: other.id });
  await task({ user: other.id, base: "SD2" });
  await task({ user: other.id, type: "train" });
  const later = await task({ user: other.id });
  await sql`update tasks set not_before = now() + interval '1 hour' where id = ${later}`;
  await app.make("tasks", owner.token, { type: "infer", prompt: "x" });
  const { waiting, running, workers, servers } = await stats();
  expect(running).toEqual({ train: 0, infer: 2 });
  expect(workers.room).toBe(48);
  expect(waiting.total).toBe(7);
  expect(waiting.by_type).toEqual({ train: 1, infer: 6 });
  const reasons = waiting.by_reason.map(
    ({ type, reason, tasks }: Record<string, string>) => `${type} ${reason} ${tasks}`,
  );
  expect(reasons.sort()).toEqual([
    "infer backing-off 1",
    "infer no-capable-server 1",
    "infer owner-limit 2",
    "infer preparing 1",
    "infer servers-busy 1",
    "train no-server 1",
  ]);
  expect(servers).toMatchObject([{ type: "infer", status: "working", slots: 3, running: 2, foreign_runs: 1 }]);
  await sql`update pool set is_paused = true, paused_at = now()`;
  const paused = await stats();
  expect([paused.paused, paused.waiting.by_reason[0].reason]).toEqual([true, "paused"]);
});

test("throughput, waits and use are of the last hour", async () => {
  const id = await server({ slots: 2 });
  await sql`update servers set created_at = now() - interval '1 day' where id = ${id}`;
  const first = await task({ user: owner.id, age: 30 });
  for (let i = 0; i < 3; i += 1) await task({ user: owner.id, age: 30 });
  for (let i = 0; i < 2; i += 1) for (const [done] of await round()) await end(done);
  await sql`
    update attempts
    set waited_seconds = 10 * number + case when task_id = ${first} then 90 else 0 end,
      started_at = now() - interval '30 minutes', ended_at = now() - interval '12 minutes'
  `;
  // Long ago, and no part of it.
  await sql`
    insert into attempts (number, epoch, server_id, need_id, waited_seconds, started_at, ended_at, outcome)
    select 1, 1, server_id, need_id, 1000, now() - interval '3 hours', now() - interval '2 hours', 'error'
    from attempts limit 1
  `;
  const { throughput, wait_seconds, servers } = await stats();
  expect(throughput.infer).toEqual({ success: 4, error: 0, retry: 0, canceled: 0 });
  expect(wait_seconds).toEqual({ train: null, infer: { p50: 10, p90: expect.closeTo(73, 3) } });
  // Four times eighteen minutes of two slots' hour.
  expect(servers[0].use).toBeCloseTo(0.6, 2);
});

test("Prometheus gets the same figures", async () => {
  await server({ slots: 3, status: "error" });
  await task({ user: owner.id });
  const { text } = await app.call("GET", "/metrics", { token: "metrics-token" });
  expect(text).toContain("atelier_database_up 1");
  expect(text).toContain('atelier_tasks_waiting{type="infer",reason="servers-out"} 1');
  expect(text).toContain('atelier_slots{type="infer",status="error"} 3');
  expect(text).toContain("atelier_workers 1");
  await clear();
  const after = await app.call("GET", "/metrics", { token: "metrics-token" });
  expect(after.text).not.toContain("atelier_tasks_waiting{");
});

/** Whoever ends many tasks at once and whoever ends one wait for each other: none takes what the other one still needs. */
import { beforeEach, expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";
import { eventually } from "../helpers/socket.ts";

const app = await startApp();
const { sql } = app;
const { server, task, round, clear } = poolRows(sql);
const owner = await app.signUp();
beforeEach(clear);

const isBlocked = () =>
  sql`
    select from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query not like '%pg_stat_activity%'
  `;

test.each([
  {
    what: "a bulk cancel",
    bulk: (ids: number[]) =>
      app
        .call("PATCH", `/api/tasks?id=${ids}`, { token: owner.token, body: { status: "canceled" } })
        .then(({ status }) => status),
    status: 200,
  },
  {
    what: "a bulk delete",
    bulk: (ids: number[]) =>
      app.call("DELETE", `/api/tasks?id=${ids}`, { token: owner.token }).then(({ status }) => status),
    status: 204,
  },
])("$what of what runs on two servers, beside a task that ends on the second", async ({ bulk, status }) => {
  const [database] = await sql`select deadlocks from pg_stat_database where datname = current_database()`;
  await server();
  const ids = [await task({ user: owner.id }), await task({ user: owner.id })];
  await server();
  const [, second] = (await round()).map(([, id]) => id);
  let ended: Promise<number> | undefined;
  await sql.begin(async (tx) => {
    // In the order of a task that ends: its server, then its queue.
    await tx`select from servers where id = ${second ?? 0} for no key update`;
    ended = bulk(ids);
    await eventually(isBlocked, (rows) => rows.length > 0);
    await tx`update queues set served_at = now() where user_id = ${owner.id}`;
    await tx`update shares set served_at = now() where user_id = ${owner.id}`;
  });
  expect(await ended).toBe(status);
  await sql`select pg_stat_force_next_flush()`;
  const [now] = await sql`select deadlocks from pg_stat_database where datname = current_database()`;
  expect(now).toEqual(database);
  expect(await sql`select from leases`).toHaveLength(0);
  const [queue] = await sql`select waiting from queues where user_id = ${owner.id}`;
  expect(queue?.waiting).toBe(0);
});

test("back-offs that end, deadlines that pass and runs that are charged hold no share while they want a queue", async () => {
  await server();
  const ids = [await task({ user: owner.id }), await task({ user: owner.id, scheduler: "DDIM" })];
  await sql`update tasks set not_before = now() - interval '1 second' where id = any (${ids}::int[])`;
  const [, last] = await sql<{ need_id: number }[]>`select need_id from queues order by need_id`;
  for (const work of ["end_back_offs", "expire_tasks", "charge_running"]) {
    let done: Promise<unknown> | undefined;
    await sql.begin(async (tx) => {
      await tx`select from queues where need_id = ${last?.need_id ?? 0} for no key update`;
      done = sql`select ${sql.unsafe(work)}()`.execute();
      await eventually(isBlocked, (rows) => rows.length > 0);
      await tx`select from shares where user_id = ${owner.id} for no key update`;
    });
    await done;
    if (work === "end_back_offs") {
      await sql`update tasks set start_before = now() where id = any (${ids}::int[])`;
    } else if (work === "expire_tasks") {
      expect(await sql`select from tasks where status = 'error'`).toHaveLength(2);
      // Two that run, of two kinds.
      await server();
      await task({ user: owner.id });
      await task({ user: owner.id, scheduler: "DDIM" });
      expect(await round()).toHaveLength(2);
      await sql`update shares set served_at = now() - interval '1 minute'`;
      await sql`update leases set created_at = now() - interval '1 hour'`;
    }
  }
  const charged = await sql<{ charged: number }[]>`select round(charged) as charged from leases`;
  expect(charged.map((row) => Number(row.charged))).toEqual([3600, 3600]);
});

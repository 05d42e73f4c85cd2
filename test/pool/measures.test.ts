/** What is learned from attempts, and for how long they are kept. */
import { expect, test } from "bun:test";
import { createSweep } from "../../jobs/sweep.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const { sql, signUp, log } = await startApp();
const { server, task, round, end } = poolRows(sql);
const owner = await signUp();

test("what a task is expected to take follows those that ended well", async () => {
  await server();
  const expected = async () => (await sql`select seconds from needs`)[0]?.seconds;
  const guess = await expected();
  expect(guess).toBeUndefined();
  for (const seconds of [40, 60]) {
    const id = await task({ user: owner.id });
    await round();
    await end(id, seconds);
  }
  expect(await expected()).toBe(15);
  await sql`select measure_needs()`;
  expect(Math.round(await expected())).toBe(50);
});

test("attempts are kept for thirty days, empty queues for two", async () => {
  const sweep = createSweep({ sql, log });
  const count = async () => (await sql`select (select count(*) from attempts) a, (select count(*) from queues) q`)[0];
  await sweep();
  expect(await count()).toEqual({ a: 2, q: 1 });
  await sql`update attempts set ended_at = now() - interval '31 days' where number = 1 and gpu_seconds > 50`;
  await sql`update queues set served_at = now() - interval '3 days'`;
  await sweep();
  expect(await count()).toEqual({ a: 1, q: 0 });
});

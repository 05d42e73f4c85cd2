/** A task's place in the queue is its place in the order of dispatch: whatever the state, the two agree. */
import { beforeEach, expect, test } from "bun:test";
import { createOutlook } from "../../src/pool/outlook.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";
import { randomFrom } from "../helpers/random.ts";

const app = await startApp();
const { sql } = app;
const { server, task, round, clear } = poolRows(sql);
const users = (await Promise.all([1, 2, 3, 4].map(() => app.signUp()))).map(({ id }) => id);
const admin = await app.admin();
const maxRunning = 6;
const outlook = createOutlook(sql, maxRunning);
beforeEach(clear);

const positions = async (ids: number[]) => {
  const found = await outlook.find(sql, ids);
  return new Map(ids.map((id) => [id, found.get(id)?.queue_position ?? null]));
};

test.each(Array.from({ length: 12 }, (_, i) => i + 1))(
  "state %d: as many slots as its position start it, one fewer does not",
  async (seed) => {
    const random = randomFrom(seed);
    for (const user of users) {
      // Parts of seconds: equal costs are settled by the ranks of the first tasks, which dispatch looks at more closely.
      await sql`
      insert into shares (user_id, type, gpu_seconds) values (${user}, 'infer', ${1 + random.next() * 40})
    `;
    }
    const busy = await server({ slots: 20, foreign: 20 });
    const ids: number[] = [];
    for (let i = 0; i < 14; i += 1) {
      ids.push(
        await task({
          user: random.pick(users),
          scheduler: random.pick(["DDIM", "PNDM"]),
          priority: random.pick([0, 0, 0, 1]),
          age: random.next() < 0.1 ? 8_000 + random.int(999) : random.int(300),
        }),
      );
    }
    await sql`update needs set seconds = 10 + id`;
    const place = await positions(ids);
    // Those whose owners may have so many running: what is beyond that is not a matter of slots.
    expect([...place.values()].every((position) => position !== null)).toBe(true);
    for (const id of [random.pick(ids), random.pick(ids)]) {
      const position = place.get(id) as number;
      const startsWith = async (slots: number): Promise<boolean> => {
        let isStarted = false;
        await sql
          .begin(async (tx) => {
            const inside = poolRows(tx as unknown as typeof sql);
            await tx`update servers set foreign_runs = slots - ${slots} where id = ${busy}`;
            isStarted = (await inside.round({ maxRunning })).some(([taskId]) => taskId === id);
            throw new Error("undone");
          })
          .catch((error) => {
            if (error.message !== "undone") throw error;
          });
        return isStarted;
      };
      expect({ id, position, few: await startsWith(position - 1) }).toEqual({ id, position, few: false });
      const [own] = await sql<{ ahead: number }[]>`
      select count(*)::int as ahead from tasks o, tasks t
      where t.id = ${id} and o.user_id = t.user_id and o.rank is not null and o.id <> t.id
    `;
      if ((own?.ahead ?? 0) < maxRunning) {
        expect({ id, position, enough: await startsWith(position) }).toEqual({ id, position, enough: true });
      }
    }
  },
);

test("only tasks count that the same servers can run, and moves are seen at once", async () => {
  const [anna, ben] = users as [number, number];
  await server({ bases: ["SD1.5"], slots: 1, foreign: 1 });
  await server({ bases: ["SD2"], slots: 1, foreign: 1 });
  const [a1, b1, a2, other] = [
    await task({ user: anna, age: 30 }),
    await task({ user: ben, age: 20 }),
    await task({ user: anna, age: 10 }),
    await task({ user: ben, base: "SD2", age: 90 }),
  ];
  // Whose turn it is goes by ten minutes of the clock, which may have just begun.
  await sql`update shares set since = now()`;
  expect([...(await positions([a1, b1, a2, other])).values()]).toEqual([1, 2, 3, 1]);
  await app.call("PATCH", `/api/tasks/${b1}`, { token: admin.token, body: { priority: 5 } });
  expect([...(await positions([a1, b1, a2])).values()]).toEqual([2, 1, 3]);
  await sql`delete from tasks where id = ${b1}`;
  expect([...(await positions([a1, a2])).values()]).toEqual([1, 2]);
  const listed = await app.call("GET", "/api/tasks?status=waiting", { token: admin.token });
  expect(listed.body.list.map((row: { queue_position: number }) => row.queue_position)).toEqual([1, 2, 1]);
});

test("what does not wait in line has no position", async () => {
  const [anna] = users as [number];
  const [waiting, later] = [await task({ user: anna }), await task({ user: anna })];
  await sql`update tasks set not_before = now() + interval '1 minute' where id = ${later}`;
  await server();
  const [[running]] = (await round()) as [[number, number]];
  expect(running).toBe(waiting);
  expect([...(await positions([running, later])).values()]).toEqual([null, null]);
});

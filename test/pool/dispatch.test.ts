/** Which waiting task goes to which server: the rules, over rows. */
import { beforeEach, describe, expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const app = await startApp();
const { sql } = app;
const { server, task, round, end, clear } = poolRows(sql);
const [anna, ben, chen] = (await Promise.all([app.signUp(), app.signUp(), app.signUp()])) as [
  { id: number; token: string },
  { id: number; token: string },
  { id: number; token: string },
];
beforeEach(clear);

describe("what a server can do", () => {
  test.each([
    ["a base model that it has no checkpoint for", { bases: ["SD2"] }, {}],
    ["work of the other type", { type: "train" as const }, {}],
    ["a scheduler that it does not offer", { schedulers: ["DDIM"] }, {}],
    ["anything before it was probed", { isProbed: false }, {}],
    ["a model that it cannot be given", { train: ["ti"], type: "train" as const }, { type: "train" as const }],
    ["anything while it is closing", { status: "closing" }, {}],
    ["anything while it is set aside", { status: "error" }, {}],
  ])("it gets no task for %s", async (_name, offers, wants) => {
    await server(offers);
    await task({ user: anna.id, ...wants });
    expect(await round()).toEqual([]);
    const fit = await server({ type: "type" in wants ? wants.type : undefined });
    expect((await round()).map(([, id]) => id)).toEqual([fit]);
  });

  test("the most special server that will do is taken, so that the others stay free for what only they can do", async () => {
    const both = await server({ bases: ["SD1.5", "SD2"] });
    const one = await server({ bases: ["SD1.5"] });
    const first = await task({ user: anna.id, age: 9 });
    const second = await task({ user: anna.id, base: "SD2" });
    expect(await round()).toEqual([
      [first, one],
      [second, both],
    ]);
  });

  test("slots, less what others run there, are what it takes at once", async () => {
    const id = await server({ slots: 4, foreign: 1 });
    for (let i = 0; i < 5; i += 1) await task({ user: anna.id });
    expect((await round()).map(([, id]) => id)).toEqual([id, id, id]);
    expect((await sql`select status from servers where id = ${id}`)[0]).toEqual({ status: "working" });
  });

  test("a task that failed on a server goes to another, and back only when there is none", async () => {
    const bad = await server();
    const id = await task({ user: anna.id, avoid: [bad] });
    const good = await server();
    await sql`update servers set foreign_runs = 1 where id = ${good}`;
    expect(await round()).toEqual([]);
    await sql`update servers set status = 'error' where id = ${good}`;
    expect(await round()).toEqual([[id, bad]]);
  });

  test("what was judged changes with what a probe finds", async () => {
    const id = await server({ bases: [] });
    const waiting = await task({ user: anna.id });
    expect(await round()).toEqual([]);
    await sql`update servers set checkpoints = '{"SD1.5": "a.safetensors"}' where id = ${id}`;
    expect(await round()).toEqual([[waiting, id]]);
  });
});

describe("whose turn it is", () => {
  test("who has used less goes first, however many tasks the other has, and however old", async () => {
    await server({ slots: 2 });
    const crowd: number[] = [];
    for (let i = 0; i < 20; i += 1) crowd.push(await task({ user: anna.id, age: 5000 - i }));
    expect((await round()).map(([id]) => id)).toEqual(crowd.slice(0, 2));
    const single = await task({ user: ben.id });
    await end(crowd[0] as number, 60);
    expect((await round()).map(([id]) => id)).toContain(single);
  });

  test("free slots of one round are shared", async () => {
    await server({ slots: 4 });
    for (const user of [anna, anna, anna, anna, ben, ben, chen]) await task({ user: user.id });
    await round();
    const shares = await sql`select count(*) from leases group by user_id order by 1 desc`;
    expect(shares.map((row) => row.count)).toEqual([2, 1, 1]);
  });

  test("GPU-seconds of long ago weigh less than those of just now", async () => {
    await server();
    await sql`
      insert into shares (user_id, type, gpu_seconds, as_of)
      values (${anna.id}, 'infer', 1000, now() - interval '10 hours'), (${ben.id}, 'infer', 100, now())
    `;
    await task({ user: ben.id });
    const id = await task({ user: anna.id });
    expect((await round()).map(([id]) => id)).toEqual([id]);
  });

  test("priority comes before shares, and waiting for ten minutes is worth a point of it", async () => {
    await server();
    await sql`insert into shares (user_id, type, gpu_seconds) values (${anna.id}, 'infer', 1000)`;
    const low = await task({ user: ben.id, age: 500 });
    const high = await task({ user: anna.id, priority: 2 });
    expect((await round()).map(([id]) => id)).toEqual([high]);
    await end(high);
    const again = await task({ user: anna.id, priority: 2 });
    await sql`update tasks set waiting_at = now() - interval '31 minutes' where id = ${low}`;
    expect((await round()).map(([id]) => id)).toEqual([low]);
    await end(low);
    expect((await round()).map(([id]) => id)).toEqual([again]);
  });

  test("a user's own tasks go by priority, then age", async () => {
    await server();
    const low = await task({ user: anna.id, priority: -1, age: 500 });
    const old = await task({ user: anna.id, age: 100 });
    const young = await task({ user: anna.id });
    const first = await task({ user: anna.id, priority: 5 });
    for (const id of [first, old, young, low]) {
      expect((await round()).map(([id]) => id)).toEqual([id]);
      await end(id);
    }
  });

  test("nobody has more running than the limit", async () => {
    await server({ slots: 5 });
    for (let i = 0; i < 5; i += 1) await task({ user: anna.id });
    await task({ user: ben.id });
    expect(await round({ maxRunning: 2 })).toHaveLength(3);
    expect(await round({ maxRunning: 2 })).toHaveLength(3);
  });

  test("a worker gets no more than it has room for", async () => {
    await server({ slots: 5 });
    for (let i = 0; i < 5; i += 1) await task({ user: anna.id });
    expect(await round({ capacity: 3 })).toHaveLength(3);
  });

  test("while the pool is paused nothing goes", async () => {
    await server();
    await task({ user: anna.id });
    await sql`update pool set is_paused = true, paused_at = now()`;
    expect(await round()).toEqual([]);
    await sql`update pool set is_paused = false, paused_at = null`;
    expect(await round()).toHaveLength(1);
  });
});

describe("where a model's file is", () => {
  const hash = "a".repeat(64);
  let model: number;
  let holder: number;
  let other: number;
  beforeEach(async () => {
    const registered = await app.makeModel(anna.token);
    model = registered.id;
    await sql`update models set hash = ${hash} where id = ${model}`;
    other = await server();
    holder = await server();
    await sql`insert into placements values (${holder}, ${hash}, 1)`;
  });

  test("the task goes there", async () => {
    const id = await task({ user: anna.id, model });
    expect(await round()).toEqual([[id, holder]]);
  });

  test("it waits while that server is busy, and another task takes the free one; but not for long", async () => {
    await sql`update servers set foreign_runs = 1 where id = ${holder}`;
    const id = await task({ user: anna.id, model, age: 5 });
    const plain = await task({ user: anna.id });
    expect(await round()).toEqual([[plain, other]]);
    await end(plain);
    await sql`update tasks set waiting_at = now() - interval '20 seconds' where id = ${id}`;
    expect(await round()).toEqual([[id, other]]);
  });

  test("it does not wait for a server that is set aside", async () => {
    await sql`update servers set status = 'error' where id = ${holder}`;
    const id = await task({ user: anna.id, model });
    expect(await round()).toEqual([[id, other]]);
  });
});

test("an attempt is written down, and charged to the task's owner", async () => {
  const serverId = await server();
  const id = await task({ user: anna.id, age: 30 });
  await round();
  await end(id, 12);
  const [attempt] = await sql`select * from attempts where task_id = ${id}`;
  expect(attempt).toMatchObject({ number: 1, server_id: serverId, outcome: "success", user_id: anna.id });
  expect(Math.round(attempt?.waited_seconds)).toBe(30);
  expect(Math.round(attempt?.gpu_seconds)).toBe(12);
  const [share] = await sql`select * from shares where user_id = ${anna.id}`;
  expect(Math.round(share?.gpu_seconds)).toBe(12);
});

test("queues keep count through everything that can happen to a task", async () => {
  const count = async () => {
    const [row] = await sql`select coalesce(sum(waiting), 0)::int as n from queues`;
    return row?.n;
  };
  const [one, two, three] = [
    await task({ user: anna.id }),
    await task({ user: anna.id }),
    await task({ user: ben.id }),
  ];
  expect(await count()).toBe(3);
  await sql`update tasks set not_before = now() + interval '1 minute' where id = ${one}`;
  expect(await count()).toBe(2);
  await sql`update tasks set not_before = null where id = ${one}`;
  await sql`delete from tasks where id = ${two}`;
  expect(await count()).toBe(2);
  await server();
  await round();
  expect(await count()).toBe(1);
  await sql`update tasks set status = 'canceled', finished_at = now() where id in ${sql([one, three])}`;
  expect(await count()).toBe(0);
});

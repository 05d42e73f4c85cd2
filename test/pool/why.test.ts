/** Why a task waits. What is named is what keeps it: taken away, the task starts; while something is named, it does not. */
import { beforeEach, describe, expect, test } from "bun:test";
import { createOutlook } from "../../src/pool/outlook.ts";
import { explain, type Reason, type ReasonCode } from "../../src/pool/why.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";
import { randomFrom } from "../helpers/random.ts";

const maxRunning = 2;
const app = await startApp({ maxRunningPerUser: maxRunning });
const { sql } = app;
const { server, task, round, end, clear } = poolRows(sql);
const owner = await app.signUp();
const others = await Promise.all([app.signUp(), app.signUp()]);
const admin = await app.admin();
const outlook = createOutlook(sql, maxRunning);

const work = (concurrency: number) => sql`
  insert into workers (id, host, concurrency, expires_at) values ('w', 'here', ${concurrency}, now() + interval '1 hour')
  on conflict (id) do update set concurrency = excluded.concurrency, expires_at = excluded.expires_at
`;
beforeEach(async () => {
  await clear();
  await work(100);
});

const why = (id: number): Promise<Reason[]> => explain(sql, outlook, id);
const codes = async (id: number): Promise<ReasonCode[]> => (await why(id)).map(({ code }) => code);
const waiting = (fields = {}) => task({ user: owner.id, ...fields });
const isStarted = async (id: number) => (await round({ maxRunning })).some(([taskId]) => taskId === id);

interface Case {
  code: ReasonCode;
  /** @returns the task, and what takes the reason away */
  set: () => Promise<{ id: number; unblock: () => Promise<unknown> }>;
}

const cases: Case[] = [
  {
    code: "paused",
    async set() {
      await server();
      await app.call("POST", "/api/pool/pause", { token: admin.token });
      return { id: await waiting(), unblock: () => app.call("POST", "/api/pool/resume", { token: admin.token }) };
    },
  },
  {
    code: "backing-off",
    async set() {
      await server();
      const id = await waiting();
      await sql`update tasks set not_before = now() + interval '1 hour' where id = ${id}`;
      return { id, unblock: () => sql`update tasks set not_before = null where id = ${id}` };
    },
  },
  {
    code: "deadline-passed",
    async set() {
      await server();
      const id = await waiting();
      await sql`update tasks set start_before = now() where id = ${id}`;
      return { id, unblock: () => sql`update tasks set start_before = null where id = ${id}` };
    },
  },
  {
    code: "no-server",
    async set() {
      await server({ type: "train" });
      return { id: await waiting(), unblock: () => server() };
    },
  },
  {
    code: "no-capable-server",
    async set() {
      const only = await server({ bases: ["SD2"] });
      const unblock = () => sql`update servers set checkpoints = '{"SD1.5": "x.safetensors"}' where id = ${only}`;
      return { id: await waiting(), unblock };
    },
  },
  {
    code: "no-capable-server",
    async set() {
      const only = await server({ isProbed: false });
      const [probed] =
        await sql`select facts from servers where id = ${await server({ type: "infer", status: "error" })}`;
      await sql`delete from servers where id <> ${only}`;
      return {
        id: await waiting(),
        unblock: () => sql`update servers set facts = ${sql.json(probed?.facts)} where id = ${only}`,
      };
    },
  },
  {
    code: "servers-out",
    async set() {
      const closing = await server({ status: "closing" });
      await server({ status: "error" });
      return { id: await waiting(), unblock: () => sql`update servers set status = 'ready' where id = ${closing}` };
    },
  },
  {
    code: "owner-limit",
    async set() {
      await server({ slots: 9 });
      const running = [await waiting({ age: 9 }), await waiting({ age: 9 })];
      await round({ maxRunning });
      return { id: await waiting(), unblock: () => end(running[0] as number) };
    },
  },
  {
    code: "servers-busy",
    async set() {
      await server();
      const running = await task({ user: others[0]?.id as number });
      await round({ maxRunning });
      return { id: await waiting(), unblock: () => end(running) };
    },
  },
  {
    code: "servers-busy",
    async set() {
      const taken = await server({ foreign: 1 });
      return { id: await waiting(), unblock: () => sql`update servers set foreign_runs = 0 where id = ${taken}` };
    },
  },
  {
    code: "servers-busy",
    async set() {
      // It failed on the free one, and goes to another as long as there is one.
      const failed = await server();
      const other = await server({ foreign: 1 });
      const id = await waiting({ avoid: [failed] });
      return { id, unblock: () => sql`update servers set status = 'closing' where id = ${other}` };
    },
  },
  {
    code: "model-elsewhere",
    async set() {
      const model = await app.makeModel(owner.token);
      const holder = await server({ foreign: 1 });
      await server();
      await sql`insert into placements (server_id, hash, bytes) values (${holder}, ${model.hash}, 1)`;
      const id = await waiting({ model: model.id });
      return { id, unblock: () => sql`update tasks set waiting_at = now() - interval '15 seconds' where id = ${id}` };
    },
  },
  {
    code: "queue",
    async set() {
      await server();
      const first = await task({ user: others[0]?.id as number, age: 60 });
      return { id: await waiting(), unblock: () => sql`delete from tasks where id = ${first}` };
    },
  },
];

test.each(cases)("$code: named alone, and without it the task starts", async ({ code, set }) => {
  const { id, unblock } = await set();
  const [only, ...more] = await why(id);
  expect([only?.code, ...more.map((reason) => reason.code)]).toEqual([code]);
  expect(only?.detail).toMatch(/^[A-Z].*[^.]$/);
  expect(only?.unblock).toMatch(/^[A-Z].*[^.]$/);
  if (code !== "queue") expect(await isStarted(id)).toBe(false);
  await unblock();
  expect(await codes(id)).toEqual(["next"]);
  expect(await isStarted(id)).toBe(true);
  expect(await codes(id)).toEqual([]);
});

test("what is not in line yet, and what is over", async () => {
  const made = await app.make("tasks", owner.token, { type: "infer", prompt: "x" });
  expect(await codes(made.id)).toEqual(["preparing"]);
  await app.call("PATCH", `/api/tasks/${made.id}`, { token: owner.token, body: { status: "canceled" } });
  expect(await codes(made.id)).toEqual([]);
});

test("workers: none, and none with room", async () => {
  await server({ slots: 9 });
  await work(1);
  const running = await waiting({ age: 9 });
  await round({ capacity: 1 });
  const id = await waiting();
  expect(await codes(id)).toEqual(["workers-busy"]);
  await end(running);
  expect(await codes(id)).toEqual(["next"]);
  await sql`update workers set expires_at = now()`;
  expect(await codes(id)).toEqual(["no-worker"]);
});

test("several reasons come in the order in which dispatch would meet them", async () => {
  await server({ foreign: 1 });
  await task({ user: others[0]?.id as number, age: 60 });
  const id = await waiting();
  await sql`update pool set is_paused = true, paused_at = now()`;
  expect(await codes(id)).toEqual(["paused", "servers-busy", "queue"]);
  await sql`update tasks set start_before = now() where id = ${id}`;
  expect(await codes(id)).toEqual(["paused", "deadline-passed", "servers-busy"]);
});

test("what is lacking is said in words", async () => {
  await server({ bases: ["SD2"], schedulers: ["DDIM"] });
  await server({ isProbed: false });
  const [reason] = await why(await waiting({ scheduler: "PNDM" }));
  expect(reason?.detail).toBe(
    "The server for inference cannot run it. Of the servers for inference one has not been probed yet",
  );
  await sql`delete from servers where profile_id is null`;
  const [second] = await why(await waiting({ scheduler: "PNDM" }));
  expect(second?.detail).toBe(
    "The server for inference cannot run it. The closest lacks a checkpoint for SD1.5 and the scheduler PNDM",
  );
  expect(second?.unblock).toBe("A server with a checkpoint for SD1.5 and the scheduler PNDM");
});

describe("any state", () => {
  /** Takes away what is named, as an operator and time would. */
  async function remove(code: ReasonCode, id: number): Promise<void> {
    switch (code) {
      case "paused":
        await sql`update pool set is_paused = false, paused_at = null`;
        break;
      case "backing-off":
        await sql`update tasks set not_before = null where id = ${id}`;
        break;
      case "deadline-passed":
        await sql`update tasks set start_before = null where id = ${id}`;
        break;
      case "no-server":
      case "no-capable-server":
        await server({ schedulers: ["DDIM", "PNDM"], bases: ["SD1.5", "SD2"] });
        break;
      case "servers-out":
        await sql`update servers set status = 'ready' where status in ('error', 'closing')`;
        break;
      case "servers-busy":
      case "owner-limit": {
        await sql`update servers set foreign_runs = 0`;
        for (const { task_id } of await sql<{ task_id: number }[]>`select task_id from leases`) await end(task_id);
        if (code === "owner-limit") {
          // Those of its own that go first have their turn.
          await sql`
            delete from tasks o using tasks t
            where t.id = ${id} and o.user_id = t.user_id and o.id <> t.id and o.status = 'waiting'
          `;
        }
        break;
      }
      case "queue":
        await sql`delete from tasks where status = 'waiting' and id <> ${id}`;
        break;
      default:
        throw new Error(`nothing takes ${code} away here`);
    }
  }

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "seed %d: it starts when, and only when, nothing is named",
    async (seed) => {
      const random = randomFrom(seed);
      for (let i = 0; i < 1 + random.int(4); i += 1) {
        await server({
          bases: random.pick([["SD1.5"], ["SD2"], ["SD1.5", "SD2"]]),
          schedulers: random.pick([["DDIM"], ["DDIM", "PNDM"]]),
          status: random.pick(["ready", "ready", "working", "error", "closing"]),
          slots: 1 + random.int(2),
          foreign: random.pick([0, 0, 1]),
          isProbed: random.next() < 0.9,
        });
      }
      const users = [owner, ...others].map(({ id }) => id);
      const ids: number[] = [];
      for (let i = 0; i < 10; i += 1) {
        ids.push(
          await task({
            user: random.pick(users),
            base: random.pick(["SD1.5", "SD2"]),
            scheduler: random.pick(["DDIM", "PNDM"]),
            age: random.int(100),
          }),
        );
        if (i === 3) await round({ maxRunning });
      }
      const [id = 0] = (
        await sql<
          { id: number }[]
        >`select id from tasks where status = 'waiting' order by id offset ${random.int(4)} limit 1`
      ).map((row) => row.id);
      if (random.next() < 0.2) await sql`update pool set is_paused = true, paused_at = now()`;
      if (random.next() < 0.2) await sql`update tasks set not_before = now() + interval '1 hour' where id = ${id}`;
      for (let removed = 0; removed < 8; removed += 1) {
        const named = await codes(id);
        if (named.includes("next")) {
          expect(named).toEqual(["next"]);
          expect(await isStarted(id)).toBe(true);
          return;
        }
        // With the others that could start, this one may: then nothing was wrong with what it had been told.
        const [first] = named;
        if (first !== "queue" && (await isStarted(id))) throw new Error(`it started in spite of ${named}`);
        await remove(first as ReasonCode, id);
      }
      throw new Error("it never started");
    },
  );
});

test("by the API: for those who may see the task, and without a name", async () => {
  await server({ foreign: 1 });
  const made = await app.make("tasks", owner.token, { type: "infer", prompt: "x", public: true });
  const hidden = await app.make("tasks", owner.token, { type: "infer", prompt: "x" });
  await sql`update tasks set status = 'waiting' where id in (${made.id}, ${hidden.id})`;
  const ask = (id: number, token?: string) => app.call("GET", `/api/tasks/${id}/why`, { token });
  const open = await ask(made.id);
  expect(open.status).toBe(200);
  expect(open.body.reasons).toEqual([
    { code: "servers-busy", detail: "The only slot that can run it is taken", unblock: "What runs there ends" },
    ...(open.body.reasons as Reason[]).slice(1),
  ]);
  expect((await ask(hidden.id)).status).toBe(404);
  expect((await ask(hidden.id, others[0]?.token)).status).toBe(404);
  expect((await ask(hidden.id, owner.token)).status).toBe(200);
  expect((await ask(hidden.id, admin.token)).status).toBe(200);
  expect((await app.call("GET", `/api/tasks/${made.id}/why?x=1`)).status).toBe(400);
});

/**
 * What workers, users and admins do to the pool, zombies with old leases among them, and a model in memory that says of
 * every write whether it takes effect.
 */
import { expect } from "bun:test";
import { dispatch, type Leased } from "../../src/pool/dispatch.ts";
import {
  advance,
  beat,
  findLease,
  freeSlot,
  type Lease,
  release,
  resign,
  storeHandle,
  sweepLeases,
  takeOver,
} from "../../src/pool/lease.ts";
import { fenced, finish, LeaseLost, type Outcome } from "../../src/pool/outcome.ts";
import { setAside } from "../../src/pool/probe.ts";
import type { Account, TestApp } from "./app.ts";
import type { TaskState } from "./pool-invariants.ts";
import { poolRows } from "./pool-rows.ts";
import type { randomFrom } from "./random.ts";

/** What a worker was given, and who it was. */
type Token = Lease & { worker: string };

const error = { class: "engine-failed", detail: "no" };
const outcomes: Outcome[] = [
  { status: "success" },
  { status: "error", error },
  { status: "waiting", error, delaySeconds: 0, avoid: null },
  { status: "waiting", error, delaySeconds: 60, avoid: null },
];
/** And minutes without progress that each allows. */
const stages = [
  ["queued", 60],
  ["loading", 15],
  ["steps", 5],
] as const;
const [closing, ready] = [{ status: "closing" }, { status: "ready" }];
const workers = ["a", "b", "c"];
const nothing = { taskId: 0, serverId: 0, epoch: 0, handle: null, breaks: 0 };

/** A pool of three servers and three users, without tasks. */
export async function poolModel(app: TestApp, { next, int, pick }: ReturnType<typeof randomFrom>) {
  const { sql, call } = app;
  const rows = poolRows(sql);
  const admin = await app.admin();
  const users = await Promise.all([app.signUp(), app.signUp(), app.signUp()]);

  const tasks = new Map<number, TaskState>();
  const servers = new Map<number, { slots: number; status: string }>();
  const alive = new Set<string>();
  /** All that was ever leased, most of it lost since. */
  const tokens: Token[] = [];
  const owners = new Map<number, Account>();
  /** How many attempts of a task a holder has ended. */
  const ended = new Map<number, number>();
  for (const slots of [1, 2, 2]) servers.set(await rows.server({ slots }), { slots, status: "open" });

  let isModelled = true;
  const judge = (rule: () => void) => isModelled && rule();

  const aTask = () => pick([...owners]) ?? [0, admin];
  const aServer = () => pick([...servers.keys()]);
  /** Of late more often than of long ago. */
  const aToken = () => pick(next() < 0.8 ? tokens.slice(-3) : tokens) ?? { ...nothing, worker: "a" };
  /** Its own worker, or one that mistakes it for its own. */
  const anyWorker = (token: Token) => (next() < 0.5 ? token.worker : pick(workers));

  const held = () => [...tasks.values()].flatMap(({ lease }) => lease ?? []);
  const leasesOn = (server: number) => held().filter((lease) => lease.server === server).length;

  /** The task of a token that may still write: only its holder has such a one. */
  function current({ taskId, epoch, worker }: Token, as = worker) {
    const task = tasks.get(taskId);
    if (!task?.lease || task.epoch !== epoch) return null;
    expect(task.lease.holder).toBe(worker);
    return as === worker ? { task, lease: task.lease } : null;
  }

  function end(task: TaskState, status: string, outcome = status): void {
    if (task.lease) task.outcomes[task.outcomes.length - 1] = outcome;
    Object.assign(task, { status, lease: null });
  }

  function sweepModel(): void {
    for (const task of tasks.values()) {
      if (!task.lease?.holder || alive.has(task.lease.holder)) continue;
      task.epoch += 1;
      task.lease.holder = null;
    }
  }

  /** Keeps what a worker was given, for now and for long after. */
  async function keep(worker: string, leased: Leased[]): Promise<Token[]> {
    const found = await sql<{ task_id: number; server_id: number }[]>`
      select task_id, coalesce(server_id, source_id) as server_id from leases
    `;
    const given = leased.map((one) => {
      const serverId = found.find(({ task_id }) => task_id === one.taskId)?.server_id ?? 0;
      return { ...nothing, ...one, serverId, worker };
    });
    tokens.push(...given);
    return given;
  }

  /** A write through the API, which may be refused but must not fail. */
  async function write(method: string, path: string, { token }: { token: string }, body?: object): Promise<number> {
    const { status, text } = await call(method, `/api/${path}`, { token, body });
    if (![200, 204, 404, 409].includes(status)) throw new Error(`${method} ${path}: ${text}`);
    return status;
  }

  const operations = {
    async order() {
      const owner = pick(users);
      const scheduler = pick(["K_EULER", "DDIM"]);
      const id = await rows.task({ user: owner.id, scheduler, priority: pick([0, 0, 1]) });
      await sql`
      insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
        user_id, task_id)
      values ('picture', 512, 512, 'a bird', 20, 7, ${scheduler}, 1, 'SD1.5', ${owner.id}, ${id})
    `;
      owners.set(id, owner);
      const fresh = { status: "waiting", epoch: 0, attempts: 0, backing_off: false, outcomes: [], lease: null };
      tasks.set(id, { ...fresh, user: owner.id });
    },

    async dispatch() {
      const room = { workerId: pick(workers), capacity: 1 + int(3), maxRunning: 2 };
      const given = await keep(room.workerId, await dispatch(sql, room));
      judge(() => {
        const serving = [...servers].filter(([, { status }]) => status === "open");
        const free = serving.reduce((sum, [id, { slots }]) => sum + Math.max(0, slots - leasesOn(id)), 0);
        const wanted = users.reduce((sum, { id }) => {
          const own = [...tasks.values()].filter(({ user }) => user === id);
          const waiting = own.filter(({ status, backing_off }) => status === "waiting" && !backing_off).length;
          return sum + Math.min(waiting, room.maxRunning - own.filter(({ lease }) => lease).length);
        }, 0);
        expect(given).toHaveLength(Math.min(room.capacity, free, wanted));
        for (const { taskId, epoch, serverId } of given) {
          const task = tasks.get(taskId) as TaskState;
          const { slots = 0, status } = servers.get(serverId) ?? {};
          expect([task.status, task.backing_off, task.epoch + 1]).toEqual(["waiting", false, epoch]);
          expect([status, leasesOn(serverId) < slots]).toEqual(["open", true]);
          task.outcomes.push("open");
          const lease = { server: serverId, source: null, holder: room.workerId, part: null, breaks: 0, minutes: 15 };
          Object.assign(task, { status: "running", epoch, attempts: task.attempts + 1, lease });
        }
      });
    },

    async takeOver() {
      const worker = pick(workers);
      const capacity = 1 + int(2);
      const given = await keep(worker, await takeOver(sql, worker, capacity));
      judge(() => {
        expect(given).toHaveLength(Math.min(capacity, held().filter(({ holder }) => !holder).length));
        for (const { taskId, epoch } of given) {
          const task = tasks.get(taskId);
          expect([task?.epoch, task?.lease?.holder]).toEqual([epoch, null]);
          Object.assign(task?.lease ?? {}, { holder: worker });
        }
      });
    },

    async look() {
      const token = aToken();
      const worker = anyWorker(token);
      const seen = await findLease(sql, worker, token);
      judge(() => {
        const { server, source, part, breaks } = current(token, worker)?.lease ?? {};
        expect([seen?.serverId, seen?.handle?.part ?? (seen ? null : undefined), seen?.breaks]).toEqual([
          server ?? source ?? undefined,
          part,
          breaks,
        ]);
      });
    },

    async storeHandle() {
      const token = aToken();
      const part = `image ${int(1000)}`;
      const isStored = await storeHandle(sql, token, { part, run: { runId: part } as never });
      judge(() => {
        expect(isStored).toBe(current(token) !== null);
        Object.assign(current(token)?.lease ?? {}, { part });
      });
    },

    async freeSlot() {
      const token = aToken();
      const isFreed = await freeSlot(sql, token);
      judge(() => {
        const lease = current(token)?.lease;
        expect(isFreed).toBe(lease !== undefined);
        if (lease) Object.assign(lease, { server: null, source: lease.server ?? lease.source, minutes: 5 });
      });
    },

    async advance() {
      const token = aToken();
      const [stage, minutes] = pick(stages);
      await advance(sql, { ...token }, stage, 0);
      judge(() => Object.assign(current(token)?.lease ?? {}, { minutes }));
    },

    async finish() {
      const token = aToken();
      const outcome = pick(outcomes);
      const isWritten = await fenced(sql, token, (tx) => finish(tx, token, outcome)).then(
        () => true,
        (thrown) => {
          if (thrown instanceof LeaseLost) return false;
          throw thrown;
        },
      );
      if (isWritten) ended.set(token.taskId, (ended.get(token.taskId) ?? 0) + 1);
      judge(() => {
        const task = current(token)?.task;
        expect(isWritten).toBe(task !== undefined);
        if (!task) return;
        end(task, outcome.status, outcome.status === "waiting" ? "retry" : outcome.status);
        task.backing_off = outcome.status === "waiting" && outcome.delaySeconds > 0;
      });
    },

    async release() {
      const token = aToken();
      const worker = anyWorker(token);
      await release(sql, worker, token);
      judge(() => {
        const found = current(token, worker);
        if (!found) return;
        found.task.epoch += 1;
        found.lease.holder = null;
        found.lease.breaks += 1;
      });
    },

    async beat() {
      const id = pick(workers);
      const lived = await beat(sql, { id, host: "here", concurrency: 4, lockedBy: [] });
      judge(() => expect(lived).toBe(alive.has(id)));
      alive.add(id);
    },

    async fallSilent() {
      const id = pick(workers);
      await sql`update workers set expires_at = now() where id = ${id}`;
      alive.delete(id);
    },

    async sweep() {
      await sweepLeases(sql);
      judge(sweepModel);
    },

    async resign() {
      const id = pick(workers);
      await resign(sql, id);
      alive.delete(id);
      judge(sweepModel);
    },

    async endBackOffs() {
      await sql`update tasks set not_before = now() where status = 'waiting' and not_before is not null`;
      await sql`select end_back_offs()`;
      for (const task of tasks.values()) task.backing_off &&= task.status !== "waiting";
    },

    async cancel() {
      const [id, owner] = aTask();
      const status = await write("PATCH", `tasks/${id}`, owner, { status: "canceled" });
      judge(() => {
        const task = tasks.get(id);
        const isOver = task && ["success", "error"].includes(task.status);
        expect(status).toBe(task ? (isOver ? 409 : 200) : 404);
        if (task && !isOver) end(task, "canceled");
      });
    },

    async retry() {
      const [id, owner] = aTask();
      const status = await write("PATCH", `tasks/${id}`, owner, { status: "waiting" });
      judge(() => {
        const task = tasks.get(id);
        expect(status).toBe(task ? (task.status === "success" ? 409 : 200) : 404);
        if (task && ["error", "canceled"].includes(task.status))
          Object.assign(task, { status: "waiting", backing_off: false });
      });
    },

    async remove() {
      const [id, owner] = aTask();
      const status = await write("DELETE", `tasks/${id}`, owner);
      judge(() => expect(status).toBe(tasks.delete(id) ? 204 : 404));
      owners.delete(id);
    },

    async changeServer() {
      const id = aServer();
      const change = pick([closing, ready, ready, { slots: 1 }, { slots: 2 }]);
      await write("PATCH", `servers/${id}`, admin, change);
      judge(() => Object.assign(servers.get(id) ?? {}, change === ready ? { status: "initial" } : change));
    },

    async fail() {
      const id = aServer();
      await setAside(sql, id, "no");
      judge(() => servers.get(id)?.status !== "closing" && Object.assign(servers.get(id) ?? {}, { status: "error" }));
    },

    /** As a probe does. */
    async answer() {
      const id = aServer();
      await sql`
      update servers
      set status = case when exists (select from leases where server_id = servers.id) then 'working' else 'ready' end
      where id = ${id} and status <> 'closing'
    `;
      judge(() => servers.get(id)?.status !== "closing" && Object.assign(servers.get(id) ?? {}, { status: "open" }));
    },
  };
  /** The model as the rows have to be. */
  const predicted = () => ({
    tasks,
    servers: new Map(
      [...servers].map(([id, { slots, status }]) => {
        const shown = status === "open" ? (leasesOn(id) > 0 ? "working" : "ready") : status;
        return [id, { slots, status: shown }];
      }),
    ),
  });

  return {
    operations,
    predicted,
    tokens,
    ended,
    /** From now on writes happen at once, and nobody knows in which order. */
    forget: () => {
      isModelled = false;
    },
  };
}

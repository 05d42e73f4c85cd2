/** Leases, clocks and health, over rows: what the database's clock says, and who may still write. */
import { beforeEach, describe, expect, test } from "bun:test";
import {
  beat,
  findLease,
  freeSlot,
  heldBy,
  release,
  resign,
  storeHandle,
  sweepLeases,
  takeOver,
} from "../../src/pool/lease.ts";
import { fenced, finish, LeaseLost } from "../../src/pool/outcome.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";
import { eventually } from "../helpers/socket.ts";

const app = await startApp();
const { sql } = app;
const { server, task, round, clear } = poolRows(sql);
const owner = await app.signUp();
/** `round` leases to this one. */
const w = { id: "w", host: "here", lockedBy: [], concurrency: 4 };
const other = { id: "other", host: "there", lockedBy: [], concurrency: 4 };

let taskId: number;
let serverId: number;
beforeEach(async () => {
  await clear();
  await sql`delete from workers`;
  await beat(sql, w);
  await beat(sql, other);
  serverId = await server();
  taskId = await task({ user: owner.id });
  await round();
});

const die = (worker: { id: string }, ago: string) =>
  sql`update workers set expires_at = now() + interval '10 seconds' - ${ago}::interval where id = ${worker.id}`;
const lease = async () => (await sql`select * from leases where task_id = ${taskId}`)[0];
const row = async () => (await sql`select * from tasks where id = ${taskId}`)[0];
const holder = async (worker: { id: string }, epoch: number) => {
  const found = await findLease(sql, worker.id, { taskId, epoch });
  if (!found) throw new Error("no lease");
  return found;
};

describe("a worker", () => {
  test("that lives keeps its lease; one that is silent for ten seconds loses it, slot and handle staying", async () => {
    await sql`update leases set handle = '{"part": "train"}'`;
    await sweepLeases(sql);
    expect((await lease())?.worker_id).toBe("w");
    await die(w, "11 seconds");
    await sweepLeases(sql);
    expect(await lease()).toMatchObject({ worker_id: null, server_id: serverId, handle: { part: "train" } });
    expect(await takeOver(sql, other.id, 5)).toEqual([{ taskId, epoch: 2 }]);
    expect(await takeOver(sql, "third", 5)).toEqual([]);
    expect(await row()).toMatchObject({ status: "running", attempts: 1 });
  });

  test("that lost its lease writes nothing any more, also when it comes back", async () => {
    const old = await holder(w, 1);
    await die(w, "11 seconds");
    await sweepLeases(sql);
    await takeOver(sql, other.id, 5);
    await beat(sql, w);
    expect(fenced(sql, old, (tx) => finish(tx, old, { status: "success" }))).rejects.toBeInstanceOf(LeaseLost);
    expect(await findLease(sql, w.id, { taskId, epoch: 1 })).toBeNull();
    const now = await holder(other, 2);
    await fenced(sql, now, (tx) => finish(tx, now, { status: "success" }));
    expect((await row())?.status).toBe("success");
  });

  test("that loses its lease at this very moment stores no handle, and so submits nothing", async () => {
    const old = await holder(w, 1);
    await die(w, "11 seconds");
    let storing: Promise<boolean> | undefined;
    await sql.begin(async (tx) => {
      await sweepLeases(tx as never);
      storing = storeHandle(sql, old, { part: "train", run: {} as never });
      storing.catch(() => {});
      await eventually(
        () => sql`select from pg_locks where not granted`,
        (waiting) => waiting.length > 0,
      );
    });
    expect(await storing).toBe(false);
    expect((await lease())?.handle).toBeNull();
  });

  test("that resigns hands over at once, and only its own", async () => {
    await resign(sql, w.id);
    expect((await lease())?.worker_id).toBeNull();
    await takeOver(sql, other.id, 1);
    await resign(sql, "third");
    expect((await lease())?.worker_id).toBe("other");
  });

  test("gives up a lease that is its own alone", async () => {
    await release(sql, other.id, { taskId, epoch: 1 });
    expect((await lease())?.worker_id).toBe("w");
    await release(sql, w.id, { taskId, epoch: 1 });
    expect(await lease()).toMatchObject({ worker_id: null, breaks: 1 });
  });
});

describe("a task whose engine has done the work", () => {
  const state = async () => (await sql`select status from servers where id = ${serverId}`)[0]?.status;

  test("gives its slot to the next one and keeps its lease; the GPU's time has ended", async () => {
    const next = await task({ user: owner.id });
    expect(await round()).toEqual([[taskId, serverId]]);
    const held = await holder(w, 1);
    await sql`update leases set created_at = now() - interval '1 minute'`;
    expect(await freeSlot(sql, held)).toBe(true);
    expect(await state()).toBe("ready");
    await sql`update leases set freed_at = freed_at - interval '20 seconds'`;
    expect(await round()).toEqual([
      [taskId, null],
      [next, serverId],
    ]);
    expect(await state()).toBe("working");
    expect(await freeSlot(sql, held)).toBe(true);
    expect(await holder(w, 1)).toMatchObject({ serverId });
    await fenced(sql, held, (tx) => finish(tx, held, { status: "success" }));
    expect(await state()).toBe("working");
    const [attempt] = await sql`select round(gpu_seconds) as seconds from attempts where task_id = ${taskId}`;
    expect(Number(attempt?.seconds)).toBe(40);
  });

  test("is nothing that an old epoch can say of it", async () => {
    const old = await holder(w, 1);
    await release(sql, w.id, old);
    expect(await freeSlot(sql, old)).toBe(false);
    expect(await lease()).toMatchObject({ server_id: serverId, source_id: null });
  });

  test("has its server kept, and nothing ended there when it is canceled", async () => {
    const held = await holder(w, 1);
    await storeHandle(sql, held, { part: "train", run: { engine: "comfyui", runId: "done with" } });
    await freeSlot(sql, held);
    const admin = await app.admin();
    const { status } = await app.call("DELETE", `/api/servers/${serverId}`, { token: admin.token });
    expect(status).toBe(409);
    await sql`update tasks set status = 'canceled', finished_at = now() where id = ${taskId}`;
    const payloads = await sql`select payload::text from graphile_worker._private_jobs`;
    expect(JSON.stringify(payloads)).not.toContain("done with");
    expect(await lease()).toBeUndefined();
  });
});

describe("an attempt's clocks", () => {
  const overdue = async () => (await heldBy(sql, w.id)).get(taskId)?.overdue?.errorClass ?? null;

  test("stall and deadline are the database's", async () => {
    expect(await overdue()).toBeNull();
    await sql`update leases set stall_at = now()`;
    expect(await overdue()).toBe("stalled");
    await sql`update tasks set max_seconds = 60`;
    expect(await overdue()).toBe("stalled");
    await sql`update tasks set started_at = now() - interval '61 seconds'`;
    expect(await overdue()).toBe("deadline");
  });

  test("time in which no worker watched does not count", async () => {
    await sql`update leases set stall_at = now() + interval '1 minute'`;
    await die(w, "1 hour");
    await sweepLeases(sql);
    const [left] = await sql`select extract(epoch from stall_at - now()) / 60 as minutes from leases`;
    expect(Math.round(left?.minutes)).toBe(61);
  });

  test("nor does an outage of the database, after which nobody is known to live", async () => {
    await sql`update leases set stall_at = now() - interval '1 minute'`;
    await die(w, "30 minutes");
    expect(await beat(sql, w)).toBe(false);
    expect(await overdue()).toBeNull();
    expect(await beat(sql, w)).toBe(true);
  });
});

describe("a task that failed", () => {
  const failHere = async (delaySeconds: number) => {
    const held = await holder(w, 1);
    const error = { class: "engine-failed", detail: "no" };
    await fenced(sql, held, (tx) => finish(tx, held, { status: "waiting", error, delaySeconds, avoid: serverId }));
  };

  test("waits for its back-off at its old place, and then goes to another server", async () => {
    const { waiting_at } = (await row()) ?? {};
    await failHere(60);
    const second = await server();
    expect(await round()).toEqual([]);
    expect((await row())?.waiting_at).toBe(waiting_at);
    await sql`update tasks set not_before = now() where id = ${taskId}`;
    expect(await round()).toEqual([[taskId, second]]);
    expect(await row()).toMatchObject({ attempts: 2, tries: 2 });
    const attempts =
      await sql`select number, outcome, error_class from attempts where task_id = ${taskId} order by number`;
    expect([...attempts]).toEqual([
      { number: 1, outcome: "retry", error_class: "engine-failed" },
      { number: 2, outcome: null, error_class: null },
    ]);
  });

  test("one that had to start before now ends with an error; what runs does not", async () => {
    await sql`update tasks set start_before = now() where id = ${taskId}`;
    const late = await task({ user: owner.id });
    await sql`update tasks set start_before = now() where id = ${late}`;
    await server();
    expect(await round()).toEqual([[taskId, serverId]]);
    await sql`select expire_tasks()`;
    const [ended] = await sql`select status, error->>'class' as class from tasks where id = ${late}`;
    expect(ended).toEqual({ status: "error", class: "deadline" });
    expect((await row())?.status).toBe("running");
  });
});

test("a server on which three tasks in a row fail is set aside for a while, and a success clears it", async () => {
  const state = async () =>
    (await sql`select status, run_failures, aside_until > now() as is_aside from servers where id = ${serverId}`)[0];
  await sql`delete from leases`;
  await sql`select blame_server(${serverId}, 'no'), blame_server(${serverId}, 'no')`;
  expect(await state()).toEqual({ status: "ready", run_failures: 2, is_aside: null });
  await sql`select blame_server(${serverId}, 'no')`;
  expect(await state()).toEqual({ status: "error", run_failures: 3, is_aside: true });
  await sql`update servers set status = 'ready', aside_until = now() where id = ${serverId}`;
  await sql`update tasks set status = 'canceled', finished_at = now()`;
  const next = await task({ user: owner.id });
  await round();
  await sql`select end_attempt(${next}, 'success')`;
  expect((await state())?.run_failures).toBe(0);
});

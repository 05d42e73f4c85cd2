/** What survives an engine or a worker that dies, and work that several workers share. */
import { expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { resolve } from "node:path";
import { sweepLeases } from "../../src/pool/lease.ts";
import type { Json } from "../helpers/app.ts";
import { startPool } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const pool = await startPool({ workers: 0, engines: [{ name: "painter", type: "infer", stepMs: 20 }] });
const painter = pool.engine("painter");
const owner = await pool.signUp();
/** Over a second's work. */
const body = { prompt: "a lake", width: 64, height: 64, num_inference_steps: 60 };

async function running(taskId: number): Promise<void> {
  const watch = await pool.server.watch(`tasks/${taskId}`, { token: owner.token });
  await watch.until(({ status, stage }) => status === "running" && stage === "steps");
  await watch.close();
}

/** A worker as a process of its own, to be killed. */
async function spawnWorker() {
  const child = Bun.spawn([process.execPath, resolve(import.meta.dirname, "../../src/worker.ts")], {
    env: {
      PATH: process.env.PATH ?? "",
      DATABASE_URL: pool.databaseUrl,
      DATA_DIR: pool.directory,
      SECRET_KEY: pool.secretKey,
      LOG_LEVEL: "error",
    },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "inherit",
  });
  pool.onClose(async () => child.kill("SIGKILL"));
  const known = await pool.sql<{ id: string }[]>`select id from workers`;
  const [worker] = await eventually(
    () => pool.sql<{ id: string }[]>`select id from workers where id <> all (${known.map((row) => row.id)}::text[])`,
    (rows) => rows.length > 0,
  );
  return {
    id: worker?.id as string,
    async kill() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

test("a worker that is killed leaves its run to another, which goes on with it on the engine", async () => {
  const doomed = await spawnWorker();
  await pool.untilServer(painter.serverId, "ready");
  const image = await pool.make("images", owner.token, body);
  await running(image.task_id);
  const runs = await painter.queue();
  expect(runs).toHaveLength(1);
  await doomed.kill();
  await pool.addWorker();
  // What the database's clock would say ten seconds later.
  await pool.sql`update workers set expires_at = now() where id = ${doomed.id}`;
  await sweepLeases(pool.sql);
  const task = await pool.finished(image.task_id);
  expect(task).toMatchObject({ status: "success", attempts: 1 });
  expect(await painter.history()).toEqual(runs);
});

test("an engine that dies in the middle: the task waits for it and succeeds on another attempt", async () => {
  const image = await pool.make("images", owner.token, body);
  const watch = await pool.server.watch(`tasks/${image.task_id}`, { token: owner.token });
  await watch.until(({ status, progress }) => status === "running" && progress > 10);
  await painter.kill();
  await painter.restart();
  const task = await pool.finished(image.task_id);
  expect(task).toMatchObject({ status: "success", attempts: 2, error: null });
  expect(await painter.history()).toHaveLength(1);
  expect(watch.valuesOf("progress").at(-1)).toBe(100);
});

test("two workers share eight pictures: each is made once", async () => {
  await pool.addWorker();
  await painter.kill();
  await painter.restart();
  await pool.call("PATCH", `/api/servers/${painter.serverId}`, { token: pool.admin.token, body: { slots: 4 } });
  const quick = { ...body, num_inference_steps: 3 };
  const images: Json[] = await Promise.all(
    Array.from({ length: 8 }, (_, seed) => pool.make("images", owner.token, { ...quick, seed })),
  );
  const tasks = await Promise.all(images.map((image) => pool.finished(image.task_id)));
  expect(tasks.map((task) => [task.status, task.attempts])).toEqual(tasks.map(() => ["success", 1]));
  expect(await painter.history()).toHaveLength(8);
});

test("what stalls is ended and tried again, what takes longer than it may is ended for good", async () => {
  const long = { type: "infer", prompt: "a lake", width: 64, height: 64, num_inference_steps: 500 };
  const stalling = await pool.make("tasks", owner.token, long);
  await running(stalling.id);
  // The engine does one after the other: this one waits there.
  const late = await pool.make("tasks", owner.token, { ...long, max_seconds: 600 });
  const runs = await eventually(painter.queue, (queue) => queue.length === 2);
  // What the database's clock would say ten minutes later.
  await pool.sql`update leases set stall_at = now() where task_id = ${stalling.id}`;
  await pool.sql`update tasks set started_at = started_at - interval '10 minutes' where id = ${late.id}`;
  expect(await pool.finished(late.id)).toMatchObject({ status: "error", error: { class: "deadline" }, attempts: 1 });
  await eventually(
    () => pool.sql`select from tasks where id = ${stalling.id} and attempts = 2 and status = 'running'`,
    (rows) => rows.length > 0,
  );
  const [first] =
    await pool.sql`select outcome, error_class from attempts where task_id = ${stalling.id} and number = 1`;
  expect(first).toEqual({ outcome: "retry", error_class: "stalled" });
  await eventually(painter.queue, (queue) => !runs.some((run) => queue.includes(run)));
  await pool.call("PATCH", `/api/tasks/${stalling.id}`, { token: owner.token, body: { status: "canceled" } });
  await eventually(painter.queue, (queue) => queue.length === 0);
});

test("a worker that stops hands its running work over at once", async () => {
  const image = await pool.make("images", owner.token, body);
  await running(image.task_id);
  const [lease] = await pool.sql<
    { worker_id: string }[]
  >`select worker_id from leases where task_id = ${image.task_id}`;
  const before = await painter.history();
  const holder = pool.workers.find((worker) => worker.id === lease?.worker_id);
  expect(holder).toBeDefined();
  await holder?.stop();
  expect(await pool.finished(image.task_id)).toMatchObject({ status: "success", attempts: 1 });
  expect(await painter.history()).toHaveLength(before.length + 1);
});

test("a server that moves in the middle of a run is followed to its new address", async () => {
  const move = (to: number) =>
    pool.call("PATCH", `/api/servers/${painter.serverId}`, { token: pool.admin.token, body: { port: to } });
  const { port } = painter.engine;
  const open = new Set<Socket>();
  const former = createServer((client) => {
    const engine = connect(port, "127.0.0.1");
    for (const socket of [client, engine]) open.add(socket.on("error", () => {}));
    client.pipe(engine).pipe(client);
  });
  await new Promise<void>((listening) => former.listen(0, "127.0.0.1", listening));
  pool.onClose(async () => void former.close());
  await move((former.address() as AddressInfo).port);
  const before = await painter.history();
  const image = await pool.make("images", owner.token, body);
  await running(image.task_id);
  former.close();
  for (const socket of open) socket.destroy();
  await move(port);
  expect(await pool.finished(image.task_id)).toMatchObject({ status: "success", attempts: 1 });
  expect(await painter.history()).toHaveLength(before.length + 1);
});

test("a job that died with its worker is done by another, one that lives keeps its job", async () => {
  const worker = await pool.addWorker();
  const lock = (lockedBy: string) =>
    pool.sql.begin(async (tx) => {
      const [job] = await tx`select id from graphile_worker.add_job('delete-files', '{"keys":[]}')`;
      await tx`
        update graphile_worker._private_jobs set locked_by = ${lockedBy}, locked_at = now() - interval '11 seconds'
        where id = ${job?.id}
      `;
      return job?.id as string;
    });
  const [living] = await eventually(
    () => pool.sql<{ ids: string[] }[]>`select locked_by as ids from workers where id = ${worker.id}`,
    ([row]) => row?.ids.length === 2,
  );
  const kept = await lock(living?.ids[0] as string);
  const freed = await lock("a pool of a process that was killed");
  const left = () =>
    pool.sql<{ id: string }[]>`select id from graphile_worker.jobs where id in ${pool.sql([kept, freed])}`;
  const rows = await eventually(left, (found) => found.length === 1);
  expect(rows[0]?.id).toBe(kept);
  await pool.sql`delete from graphile_worker._private_jobs where id = ${kept}`;
});

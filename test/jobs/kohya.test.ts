/** Training over SSH from the API to the model's file: a worker, OpenSSH's server, and a stand-in for accelerate. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import sharp from "sharp";
import type { Json } from "../helpers/app.ts";
import { type KohyaHost, makeKohyaHost } from "../helpers/kohya/host.ts";
import { startPool } from "../helpers/pool.ts";
import { startSshd } from "../helpers/sshd.ts";

const pool = await startPool({ engines: [] });
const owner = await pool.signUp();
const sshd = await startSshd();
const host: KohyaHost = makeKohyaHost(sshd);
afterAll(() => Promise.all([host.stop(), sshd.stop()]));

/** The run that the worker has on the host. */
async function runOf(taskId: number): Promise<string> {
  const [row] = await pool.sql`select handle->>'runId' as id from training_runs where task_id = ${taskId}`;
  return row?.id;
}

async function train(fields: Json = {}) {
  const dataset = await pool.makeDataset(owner.token, 2);
  return pool.make("models", owner.token, { dataset_id: dataset.id, epochs: 6, ...fields });
}

let server: Json;
beforeAll(async () => {
  const { port, username, privateKey } = sshd;
  server = await pool.make("servers", pool.admin.token, {
    ...{ name: "kohya", type: "train", ip: "127.0.0.1", port, username, private_key: privateKey },
    shared_dir: host.base,
  });
  await pool.untilServer(server.id, "ready");
});

test("an engine that is not named is found behind SSH, and its host key pinned and shown to admins", async () => {
  const path = `servers/${server.id}`;
  expect(await pool.get(path, pool.admin.token)).toMatchObject({
    ...{ engine: "kohya", host_key: sshd.hostKey, error: null },
    models: [{ type: "checkpoint", name: "v1-5-pruned-emaonly.safetensors" }],
  });
  expect(await pool.get(path, owner.token)).not.toHaveProperty("host_key");
});

test.each(["lora", "ckp", "ti"])("a %s is trained, with its file and its losses", async (type) => {
  const { id, task_id } = await train({ type, trigger_words: "'; rm -rf / #" });
  const task = await pool.finished(task_id);
  expect(task).toMatchObject({ status: "success", error: null, attempts: 1 });
  expect(task.metrics.map(([step]: [number, number]) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(task.samples.map(({ step }: Json) => step)).toEqual([2, 4, 6]);
  const sample = await pool.download(task.samples[0].url);
  const unsigned = new Request(task.samples[0].url.replace(/\?.*/, ""));
  expect((await pool.fetch(unsigned)).status).toBe(404);
  expect(await sharp(sample).metadata()).toMatchObject({ format: "webp", width: 1 });
  const model = await pool.get(`models/${id}`, owner.token);
  expect(model).toMatchObject({ status: "success", server_id: server.id });
  const file = await pool.download(`${pool.config.publicUrl}/api/models/${id}/file`, owner.token);
  expect(file.toString("latin1")).toContain('"ss_steps":"6"');
});

test("the attempt after one that broke off goes on from its last state", async () => {
  // After the third step of a run, so only once: two are left then.
  host.setFault("broken 4");
  const { task_id } = await train();
  expect(await pool.finished(task_id)).toMatchObject({ status: "success", attempts: 2 });
  expect(host.read(await runOf(task_id), "resumed")).toBe("4\n");
  const { samples } = await pool.get(`tasks/${task_id}`, owner.token);
  expect(samples.map(({ step }: Json) => step)).toEqual([2, 4, 6]);
  host.setFault("");
});

test("another worker goes on with the run of one that stopped", async () => {
  host.hold();
  const { task_id } = await train();
  const watch = await pool.server.watch(`tasks/${task_id}`, { token: owner.token });
  await watch.until(({ stage }) => stage === "steps");
  const run = await runOf(task_id);
  await pool.workers[0]?.stop();
  await pool.addWorker();
  host.release();
  await watch.until(({ status }) => status === "success");
  await watch.close();
  expect(await runOf(task_id)).toBe(run);
  expect(await host.submissions(run)).toBe(1);
});

test("canceling the task ends the processes on the host", async () => {
  host.hold();
  const { task_id } = await train();
  const watch = await pool.server.watch(`tasks/${task_id}`, { token: owner.token });
  await watch.until(({ stage }) => stage === "steps");
  const group = host.pid(await runOf(task_id));
  await pool.call("PATCH", `/api/tasks/${task_id}`, { token: owner.token, body: { status: "canceled" } });
  await pool.untilServer(server.id, "ready");
  while (host.processes(group).length > 0) await Bun.sleep(20);
  await watch.close();
  host.release();
});

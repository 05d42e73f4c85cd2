/** A model from a data set to its file, over the real worker and a demo engine. */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import sharp from "sharp";
import type { Json } from "../helpers/app.ts";
import { startPool } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const pool = await startPool({
  engines: [
    { name: "trainer", type: "train", stepMs: 30 },
    { name: "painter", type: "infer" },
  ],
});
const trainer = pool.engine("trainer");

/** Small and quick; enough steps to be caught in the middle. */
const quick = { train: { resolution: 64, rank: 4 }, epochs: 10 };
const long = { train: { resolution: 64, rank: 4 }, epochs: 2_000 };

async function startTraining(token: string, fields: Json = {}) {
  const dataset = await pool.makeDataset(token, 2);
  return pool.make("models", token, { dataset_id: dataset.id, ...long, ...fields });
}

/** Waits until the engine works on it. */
async function running(taskId: number): Promise<void> {
  const watch = await pool.server.watch(`tasks/${taskId}`, { token: pool.admin.token });
  await watch.until(({ status, stage }) => status === "running" && stage === "steps");
  await watch.close();
}

/** The engine has nothing to do any more, though its work would have taken a minute. */
async function untilIdle(): Promise<void> {
  await eventually(trainer.queue, (queue) => queue.length === 0);
  await pool.untilServer(trainer.serverId, "ready");
}

test("a model is trained: file, hash, cover, server, and progress to watch on model and task", async () => {
  const owner = await pool.signUp();
  const dataset = await pool.makeDataset(owner.token, 3, { name: "Three colours" });
  const model = await pool.make("models", owner.token, {
    dataset_id: dataset.id,
    name: "Colours",
    trigger_words: "flat colours",
    epochs: 80,
    train: { resolution: 64, rank: 4, seed: 7 },
  });
  expect(model).toMatchObject({ progress: 0, model_path: null, hash: null, image: null, epochs: 80 });
  const onModel = await pool.server.watch(`models/${model.id}`, { token: owner.token });
  const onTask = await pool.server.watch(`tasks/${model.task_id}`, { token: owner.token });
  await Promise.all([onModel, onTask].map((watch) => watch.until(({ status }) => status === "success")));

  for (const watch of [onModel, onTask]) {
    const progress = watch.valuesOf("progress");
    expect(progress.length).toBeGreaterThanOrEqual(10);
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
    expect(progress.at(-1)).toBe(100);
  }
  const trained = await pool.get(`models/${model.id}`, owner.token);
  expect(onModel.state).toEqual(trained);
  expect(trained).toMatchObject({ status: "success", progress: 100, error: null, server_id: trainer.serverId });
  expect(trained.train).toMatchObject({ resolution: 64, rank: 4, seed: 7 });
  const file = await pool.download(`${pool.config.publicUrl}/api/models/${model.id}/file`, owner.token);
  expect(createHash("sha256").update(file).digest("hex")).toBe(trained.hash);
  const { __metadata__: metadata, ...tensors } = JSON.parse(
    file.toString("utf8", 8, 8 + Number(file.readBigUInt64LE())),
  );
  expect(metadata).toMatchObject({
    "modelspec.title": "Colours",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.trigger_phrase": "flat colours",
    ss_base_model_version: "sd_v1",
    demo_words: expect.any(String), // the trainer's own
  });
  expect(Object.keys(tensors).length).toBeGreaterThan(0);
  const task = await pool.get(`tasks/${model.task_id}`, owner.token);
  expect(task).toMatchObject({ type: "train", status: "success", attempts: 1, model_id: model.id, error: null });
  const { report } = await pool.get(`datasets/${dataset.id}`, owner.token);
  expect(report.map((entry: Json) => entry.status)).toEqual(["ok", "ok", "ok"]);
});

test("a new model gets a cover by a task of its own, behind all others, which is no use of it", async () => {
  const owner = await pool.signUp();
  const model = await startTraining(owner.token, { ...quick, name: "Colours" });
  await pool.finished(model.task_id);
  const { list } = await pool.get("tasks?type=infer", owner.token);
  expect(list).toMatchObject([{ name: "Cover of Colours", priority: -10, model_id: model.id }]);
  expect(await pool.finished(list[0].id)).toMatchObject({ status: "success" });
  const shown = await pool.get(`models/${model.id}`, owner.token);
  expect(await sharp(await pool.download(shown.image)).metadata()).toMatchObject({ width: 64, height: 64 });
  expect(shown.uses).toBe(0);
  const { serverId } = pool.engine("painter");
  const placed = await pool.sql`select from placements where server_id = ${serverId} and hash = ${shown.hash}`;
  expect(placed).toHaveLength(1);
});

test("a model trained again keeps its old file until the new one is there", async () => {
  const owner = await pool.signUp();
  const model = await startTraining(owner.token, quick);
  await pool.finished(model.task_id);
  const before = await pool.get(`models/${model.id}`, owner.token);
  const again = await pool.make("tasks", owner.token, { type: "train", model_id: model.id });
  expect(again).toMatchObject({ type: "train", model_id: model.id });
  const meanwhile = await pool.get(`models/${model.id}`, owner.token);
  expect(meanwhile).toMatchObject({ task_id: again.id, hash: before.hash, model_path: before.model_path });
  const twice = await pool.call("POST", "/api/tasks", {
    token: owner.token,
    body: { type: "train", model_id: model.id },
  });
  expect([twice.status, twice.body.code]).toEqual([409, "training-under-way"]);
  await pool.finished(again.id);
  expect((await pool.get(`models/${model.id}`, owner.token)).status).toBe("success");
});

test("a data set without pictures fails with a plain word, and without an attempt", async () => {
  const owner = await pool.signUp();
  const dataset = await pool.make("datasets", owner.token, { images: [] });
  const model = await pool.make("models", owner.token, { dataset_id: dataset.id });
  const task = await pool.finished(model.task_id);
  expect(task).toMatchObject({ status: "error", attempts: 0, error: { class: "bad-input" } });
  expect(task.error.detail).toContain("no pictures");
  expect(await pool.get(`models/${model.id}`, owner.token)).toMatchObject({ status: "error", error: task.error });
});

test("pictures that cannot be used are told of in the report, and the others are trained on", async () => {
  const owner = await pool.signUp();
  const file = await pool.upload(owner.token);
  const dataset = await pool.make("datasets", owner.token, {
    images: [file.url, "http://no-such-host.invalid/a.png"],
  });
  const model = await pool.make("models", owner.token, { dataset_id: dataset.id, ...quick });
  expect((await pool.finished(model.task_id)).status).toBe("success");
  const { report } = await pool.get(`datasets/${dataset.id}`, owner.token);
  expect(report.map((entry: Json) => entry.status === "ok")).toEqual([true, false]);
});

describe("what is deleted takes its running training along, and the engine is free again", () => {
  test("canceling the task", async () => {
    const owner = await pool.signUp();
    const model = await startTraining(owner.token);
    await running(model.task_id);
    const cancel = () =>
      pool.call("PATCH", `/api/tasks/${model.task_id}`, { token: owner.token, body: { status: "canceled" } });
    expect((await cancel()).body.status).toBe("canceled");
    expect((await cancel()).status).toBe(200);
    await untilIdle();
    expect(await pool.get(`tasks/${model.task_id}`, owner.token)).toMatchObject({ status: "canceled", attempts: 1 });
    expect(await pool.get(`models/${model.id}`, owner.token)).toMatchObject({
      status: "error",
      error: { class: "canceled" },
    });
  });

  test("deleting the model", async () => {
    const owner = await pool.signUp();
    const model = await startTraining(owner.token);
    await running(model.task_id);
    expect((await pool.call("DELETE", `/api/models/${model.id}`, { token: owner.token })).status).toBe(204);
    await untilIdle();
    expect(await pool.get(`tasks/${model.task_id}`, owner.token)).toMatchObject({ status: "canceled", model_id: null });
  });

  test("deleting the task, with the model that never came to be", async () => {
    const owner = await pool.signUp();
    const model = await startTraining(owner.token);
    await running(model.task_id);
    expect((await pool.call("DELETE", `/api/tasks/${model.task_id}`, { token: owner.token })).status).toBe(204);
    await untilIdle();
    expect((await pool.call("GET", `/api/models/${model.id}`, { token: owner.token })).status).toBe(404);
  });

  test("deleting the user: objects and the bytes of its files go too", async () => {
    const owner = await pool.signUp();
    const model = await startTraining(owner.token);
    await running(model.task_id);
    const files = await pool.sql<{ key: string }[]>`select key from files where user_id = ${owner.id}`;
    expect(files.length).toBe(2);
    expect((await pool.call("DELETE", `/api/users/${owner.id}`, { token: owner.token })).status).toBe(204);
    await untilIdle();
    for (const { key } of files)
      await eventually(
        () => pool.storage.get(key),
        (found) => found === null,
      );
    for (const name of ["datasets", "models", "tasks"]) {
      expect((await pool.get(`${name}?user_id=${owner.id}`, pool.admin.token)).total).toBe(0);
    }
  });
});

test("a training goes on when its data set is deleted: the pictures stay until it has ended", async () => {
  const owner = await pool.signUp();
  const dataset = await pool.makeDataset(owner.token, 1);
  const model = await pool.make("models", owner.token, { dataset_id: dataset.id, ...quick, epochs: 30 });
  const [{ key } = { key: "" }] = await pool.sql<{ key: string }[]>`select key from files where user_id = ${owner.id}`;
  await running(model.task_id);
  expect((await pool.call("DELETE", `/api/datasets/${dataset.id}`, { token: owner.token })).status).toBe(204);
  expect(await pool.storage.get(key)).not.toBeNull();
  expect((await pool.finished(model.task_id)).status).toBe("success");
  expect(await pool.get(`models/${model.id}`, owner.token)).toMatchObject({ dataset_id: null, status: "success" });
  await eventually(
    () => pool.storage.get(key),
    (found) => found === null,
  );
});

/** Where a picture comes from. The worker's part is played by statements; preparing is the real one. */
import { beforeAll, expect, test } from "bun:test";
import { createPrepareTask } from "../../jobs/prepare-task.ts";
import { temporaryDirectory } from "../../src/storage/index.ts";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const bare = (url: string) => url.split("?")[0] as string;

const prepare = createPrepareTask({
  ...app,
  temporaryDirectory: temporaryDirectory(app.config),
  workerId: "w",
  stopping: new AbortController().signal,
  webhooks: { addressesOf: async () => [] },
});

/** What a worker writes at the end of a training. */
async function finishTraining(modelId: number, taskId: number): Promise<Json> {
  const file = await app.uploadModel(owner.token);
  await app.sql.begin(async (tx) => {
    await tx`update models set model_path = ${file.key}, hash = ${file.hash} where id = ${modelId}`;
    await tx`update tasks set status = 'success', progress = 100, finished_at = now() where id = ${taskId}`;
  });
  return file;
}

async function paint(modelId: number): Promise<Json> {
  const image = await app.make("images", owner.token, { prompt: "a cuckoo", model_id: modelId, seed: 7 });
  const { key } = await app.upload(owner.token);
  await app.sql`update images set file_key = ${key}, status = 'success', progress = 100 where id = ${image.id}`;
  return image;
}

const ask = (id: number, token?: string) => app.call("GET", `/api/images/${id}/lineage`, { token });
const publish = (path: string) => app.call("PATCH", `/api/${path}`, { token: owner.token, body: { public: true } });

let files: Json[];
let dataset: Json;
let model: Json;
let made: Json;
let image: Json;
let later: Json;
beforeAll(async () => {
  files = await Promise.all([app.upload(owner.token), app.upload(owner.token)]);
  dataset = await app.make("datasets", owner.token, {
    images: files.map(({ url }) => url),
    captions: { [files[0].url]: "a cuckoo on a branch" },
  });
  model = await app.make("models", owner.token, { dataset_id: dataset.id, trigger_words: "cuckoo", epochs: 5 });
  await prepare({ task_id: model.task_id });
  made = await finishTraining(model.id, model.task_id);
  image = await paint(model.id);
});

test("image, parameters, model, training, data set, and the very pictures that were learned from", async () => {
  const { status, body } = await ask(image.id, owner.token);
  expect(status).toBe(200);
  expect(body).toMatchObject({
    image: { id: image.id, url: expect.stringContaining("/api/files/"), user_id: owner.id },
    params: { prompt: "a cuckoo", seed: 7, scheduler: "K_EULER" },
    model_hash: made.hash,
    model: { id: model.id, hash: made.hash, autov2: made.hash.slice(0, 10) },
    training: { id: model.task_id, status: "success", params: { epochs: 5, dataset_id: dataset.id } },
    dataset: { id: dataset.id },
  });
  expect(body.manifest).toMatchObject([
    { hash: files[0].hash, caption: "a cuckoo on a branch", file: { size: files[0].size, content_type: "image/png" } },
    { hash: files[1].hash, caption: "cuckoo" },
  ]);
  const loaded = await app.fetch(new Request(body.manifest[1].file.url));
  expect([loaded.status, bare(body.manifest[1].source)]).toEqual([200, bare(files[1].url)]);
});

test("a model trained again does not rewrite the past", async () => {
  const other = await app.upload(owner.token);
  await app.call("PATCH", `/api/datasets/${dataset.id}`, { token: owner.token, body: { images: [other.url] } });
  const again = await app.make("tasks", owner.token, { type: "train", model_id: model.id });
  await prepare({ task_id: again.id });
  await finishTraining(model.id, again.id);
  later = await paint(model.id);
  const before = (await ask(image.id, owner.token)).body;
  expect([before.model_hash, before.training.id]).toEqual([made.hash, model.task_id]);
  expect(before.manifest.map(({ hash }: Json) => hash)).toEqual(files.map(({ hash }) => hash));
  const after = (await ask(later.id, owner.token)).body;
  expect([after.training.id, after.manifest[0].hash]).toEqual([again.id, other.hash]);
  expect(before.manifest.map(({ file }: Json) => file === null)).toEqual([false, false]);
  // Nothing refers to the first pictures any more.
  for (const { key } of files) await app.call("DELETE", `/api/files/${key}`, { token: owner.token });
  const bereft = (await ask(image.id, owner.token)).body.manifest;
  expect(bereft.map(({ hash, file }: Json) => [hash, file])).toEqual(files.map(({ hash }) => [hash, null]));
});

test("what the viewer may not see is null, step by step", async () => {
  expect((await ask(image.id, stranger.token)).status).toBe(404);
  expect((await ask(image.id)).status).toBe(404);
  await publish(`images/${image.id}`);
  const hidden = { model: null, model_hash: null, training: null, dataset: null, manifest: null };
  for (const token of [stranger.token, undefined]) {
    const { body } = await ask(image.id, token);
    expect(body).toMatchObject({ ...hidden, image: { id: image.id }, params: { prompt: "a cuckoo" } });
  }
  await publish(`models/${model.id}`);
  const open = (await ask(image.id)).body;
  expect(open).toMatchObject({ model: { id: model.id }, training: { params: null }, dataset: null, manifest: null });
  await publish(`datasets/${dataset.id}`);
  // What was taken out of the data set before it was published is not for others.
  expect((await ask(image.id)).body).toMatchObject({ dataset: { id: dataset.id }, manifest: [] });
  await publish(`images/${later.id}`);
  const { manifest } = (await ask(later.id)).body;
  expect(manifest).toMatchObject([{ caption: "cuckoo", file: { content_type: "image/png" } }]);
  expect((await app.fetch(new Request(manifest[0].file.url))).status).toBe(200);
  expect((await ask(image.id, admin.token)).body.manifest).toHaveLength(2);
});

test("a picture without a model has itself and its parameters", async () => {
  const plain = await app.make("images", owner.token, { prompt: "a lake" });
  expect((await ask(plain.id, owner.token)).body).toMatchObject({
    params: { prompt: "a lake" },
    model: null,
    manifest: null,
  });
  expect((await ask(2_000_000_000, owner.token)).status).toBe(404);
  expect((await app.call("GET", `/api/images/${plain.id}/lineage?x=1`, { token: owner.token })).status).toBe(400);
});

/** Models: trained from a data set or registered from a file. No worker runs here: trainings stay accepted. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const dataset = await app.make("datasets", owner.token, { images: [] });

const post = (body: Json, token = owner.token) => app.call("POST", "/api/models", { token, body });
const get = async (id: number, token?: string) => (await app.call("GET", `/api/models/${id}`, { token })).body;

describe("POST trains", () => {
  test("a data set is enough: everything else has its default, and a task is added", async () => {
    const { status, body } = await post({ dataset_id: dataset.id });
    expect(status).toBe(201);
    expect(body).toMatchObject({
      type: "lora",
      base_model: "SD1.5",
      status: "initial",
      progress: 0,
      model_path: null,
      hash: null,
      image: null,
      epochs: 100,
      uses: 0,
      public: false,
      tags: [],
      dataset_id: dataset.id,
      server_id: null,
      error: null,
    });
    expect(body.train).toEqual({
      resolution: 512,
      learning_rate: 0.0005,
      rank: 8,
      batch_size: 1,
      seed: expect.any(Number),
    });
    const task = await app.call("GET", `/api/tasks/${body.task_id}`, { token: owner.token });
    expect(task.body).toMatchObject({ type: "train", model_id: body.id, status: "initial", public: false });
  });

  test("what is given is kept", async () => {
    const given = {
      name: "Mine",
      info: "What it is",
      type: "ti",
      base_model: "SD2",
      trigger_words: "my style",
      epochs: 7,
      public: true,
      tags: ["own"],
      dataset_id: dataset.id,
      train: { resolution: 256, learning_rate: 0.001, rank: 2, batch_size: 4, seed: 2_147_483_647 },
    };
    expect((await post(given)).body).toMatchObject(given);
  });

  const faults: { what: string; body: Json; pointer: string }[] = [
    { what: "neither data set nor file", body: {}, pointer: "/dataset_id" },
    { what: "a data set that is not there", body: { dataset_id: 2_000_000_000 }, pointer: "/dataset_id" },
    { what: "no data set", body: { dataset_id: null }, pointer: "/dataset_id" },
    { what: "another type", body: { dataset_id: dataset.id, type: "gan" }, pointer: "/type" },
    { what: "another base", body: { dataset_id: dataset.id, base_model: "SDXL" }, pointer: "/base_model" },
    { what: "no steps", body: { dataset_id: dataset.id, epochs: 0 }, pointer: "/epochs" },
    { what: "half a step", body: { dataset_id: dataset.id, epochs: 1.5 }, pointer: "/epochs" },
    ...[
      ["rank", 0],
      ["rank", 129],
      ["resolution", 65],
      ["learning_rate", 0],
      ["learning_rate", "0.1"],
      ["batch_size", 65],
      ["seed", -1],
      ["seed", 2_147_483_648],
    ].map(([field, value]) => ({
      what: `${field} ${value}`,
      body: { dataset_id: dataset.id, train: { [field as string]: value } },
      pointer: `/train/${field}`,
    })),
    { what: "an unknown setting", body: { dataset_id: dataset.id, train: { optimizer: "x" } }, pointer: "/train" },
    { what: "a progress", body: { dataset_id: dataset.id, progress: 100 }, pointer: "/progress" },
    { what: "a hash", body: { dataset_id: dataset.id, hash: "x" }, pointer: "/hash" },
    { what: "a private cover", body: { dataset_id: dataset.id, image: "/api/files/none.png" }, pointer: "/image" },
  ];
  test.each(faults)("$what is 422", async ({ body, pointer }) => {
    const answer = await post(body);
    expect([answer.status, answer.body.errors?.map((error: Json) => error.pointer)]).toEqual([422, [pointer]]);
  });

  test("a stranger's private data set is refused exactly as a missing one; a public one is taken", async () => {
    const hidden = await post({ dataset_id: dataset.id }, stranger.token);
    const missing = await post({ dataset_id: 2_000_000_000 }, stranger.token);
    expect(hidden.status).toBe(422);
    expect(hidden.text.replaceAll(String(dataset.id), "ID")).toBe(missing.text.replaceAll("2000000000", "ID"));
    const shown = await app.make("datasets", owner.token, { images: [], public: true });
    expect((await post({ dataset_id: shown.id }, stranger.token)).status).toBe(201);
  });
});

describe("POST registers", () => {
  test("an uploaded file, by any form of its address", async () => {
    const file = await app.uploadModel(owner.token);
    const { status, body } = await post({ file: new URL(file.url).pathname, type: "hyper", base_model: "SD2" });
    expect(status).toBe(201);
    expect(body).toMatchObject({ status: "success", progress: 100, hash: file.hash, dataset_id: null, task_id: null });
    expect(file.url).toContain(body.model_path);
  });

  test("what its header says is kept, and fills in what is left open", async () => {
    const metadata = {
      "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
      "modelspec.title": "水墨布穀鳥",
      "modelspec.trigger_phrase": "suiboku",
      ss_network_dim: "16",
      ss_tag_frequency: "x".repeat(5_000),
    };
    const file = await app.uploadModel(owner.token, metadata);
    const { ss_tag_frequency: _long, ...kept } = metadata;
    expect(file.metadata).toEqual(kept);
    const claimed = { name: "水墨布穀鳥", type: "lora", base_model: "SD2", trigger_words: "suiboku", metadata: kept };
    expect((await post({ file: file.url })).body).toMatchObject(claimed);
    const own = { name: "Mine", type: "hyper", base_model: "SD1.5", trigger_words: "" };
    expect((await post({ file: file.url, ...own })).body).toMatchObject(own);
  });

  test("a file for another base is refused unless the caller names one", async () => {
    const file = await app.uploadModel(owner.token, { "modelspec.architecture": "stable-diffusion-xl-v1-base/lora" });
    const refused = await post({ file: file.url });
    expect([refused.status, refused.body.errors]).toMatchObject([422, [{ pointer: "/base_model" }]]);
    expect(refused.body.detail).toContain("stable-diffusion-xl-v1-base");
    expect((await post({ file: file.url, base_model: "SD1.5" })).status).toBe(201);
  });

  test("is found by its short hash and its whole one", async () => {
    const model = await app.makeModel(owner.token);
    expect(model.autov2).toBe(model.hash.slice(0, 10));
    const ask = async (query: string) =>
      (await app.call("GET", `/api/models?${query}`, { token: owner.token })).body.list.map((found: Json) => found.id);
    for (const query of [
      `search=${model.autov2}`,
      `search=${model.autov2.toUpperCase()}`,
      `search=${model.autov2.slice(0, 8)}`,
      `hash=${model.hash}`,
    ]) {
      expect([query, await ask(query)]).toEqual([query, [model.id]]);
    }
    expect(await ask(`hash=${model.autov2}`)).toEqual([]);
  });

  test("not a picture, not a stranger's file, not both at once", async () => {
    const [picture, model] = [await app.upload(owner.token), await app.uploadModel(stranger.token)];
    for (const body of [{ file: picture.url }, { file: model.url }, { file: "/api/files/none.safetensors" }]) {
      const answer = await post(body);
      expect([answer.status, answer.body.errors[0].pointer]).toEqual([422, "/file"]);
    }
    const mine = await app.uploadModel(owner.token);
    expect((await post({ file: mine.url, dataset_id: dataset.id })).status).toBe(422);
  });
});

describe("PATCH", () => {
  const patch = (id: number, body: Json) => app.call("PATCH", `/api/models/${id}`, { token: owner.token, body });

  test("changes name, info, trigger words, cover, tags and public", async () => {
    const model = await app.makeModel(owner.token);
    const cover = await app.upload(owner.token);
    const body = { name: "New", info: "new", trigger_words: "new", tags: ["new"], public: true };
    expect((await patch(model.id, { ...body, image: cover.url })).body).toMatchObject(body);
    expect((await get(model.id)).image).toBe(cover.url.split("?")[0]);
    expect((await patch(model.id, { image: null })).body.image).toBeNull();
  });

  test.each(["type", "base_model", "epochs", "train", "dataset_id", "file", "status", "progress", "user_id"])(
    "not %s",
    async (field) => {
      const model = await app.makeModel(owner.token);
      const answer = await patch(model.id, { [field]: 1 });
      expect([answer.status, answer.body.errors[0].pointer]).toEqual([422, `/${field}`]);
      expect(await get(model.id, owner.token)).toEqual(model);
    },
  );
});

test("inside a public model, what is private is null to others, as is its error's detail", async () => {
  const { body } = await post({ dataset_id: dataset.id, public: true });
  await app.sql`
    update tasks set status = 'error', error = '{"class": "bad-input", "detail": "private words"}', finished_at = now()
    where id = ${body.task_id}
  `;
  expect(await get(body.id, owner.token)).toMatchObject({ dataset_id: dataset.id, error: { detail: "private words" } });
  const shown = await get(body.id, stranger.token);
  expect(shown).toMatchObject({ dataset_id: null, status: "error", error: { class: "bad-input", detail: null } });
  // Its task is public with it, but not what the task was ordered with.
  const task = (await app.call("GET", `/api/tasks/${body.task_id}`, { token: stranger.token })).body;
  expect(task).toMatchObject({ public: true, params: null, error: { detail: null } });
  await app.call("PATCH", `/api/models/${body.id}`, { token: owner.token, body: { public: false } });
  expect((await app.call("GET", `/api/tasks/${body.task_id}`, { token: stranger.token })).status).toBe(404);
});

test("a deleted model leaves its images, and cancels its training", async () => {
  const model = await app.makeModel(owner.token);
  const image = await app.make("images", owner.token, { prompt: "x", model_id: model.id });
  expect(image).toMatchObject({ model_id: model.id, base_model: model.base_model });
  await app.call("DELETE", `/api/models/${model.id}`, { token: owner.token });
  expect((await app.call("GET", `/api/images/${image.id}`, { token: owner.token })).body.model_id).toBeNull();
  const { body } = await post({ dataset_id: dataset.id });
  await app.call("DELETE", `/api/models/${body.id}`, { token: owner.token });
  expect((await app.call("GET", `/api/tasks/${body.task_id}`, { token: owner.token })).body.status).toBe("canceled");
});

test("a deleted data set leaves its models, without a dataset_id", async () => {
  const gone = await app.make("datasets", owner.token, { images: [] });
  const { body: model } = await post({ dataset_id: gone.id });
  await app.call("PATCH", `/api/tasks/${model.task_id}`, { token: owner.token, body: { status: "canceled" } });
  expect((await app.call("DELETE", `/api/datasets/${gone.id}`, { token: owner.token })).status).toBe(204);
  const left = await app.call("GET", `/api/models/${model.id}`, { token: owner.token });
  expect(left.body).toMatchObject({ id: model.id, dataset_id: null });
});

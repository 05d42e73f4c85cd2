/** Tasks: what may be ordered, canceled and tried again. No worker runs here: they stay accepted. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const dataset = await app.make("datasets", owner.token, { images: [] });

const post = (body: Json, token = owner.token) => app.call("POST", "/api/tasks", { token, body });
const patch = (id: number, body: Json, token = owner.token) => app.call("PATCH", `/api/tasks/${id}`, { token, body });
const pointers = (answer: { body: Json }) => answer.body.errors?.map((error: Json) => error.pointer);

describe("inference", () => {
  test("makes count images with seeds that count up, around the end of the range", async () => {
    const { status, body } = await post({ type: "infer", prompt: "x", count: 4, seed: 2_147_483_646, name: "Four" });
    expect(status).toBe(201);
    expect(body).toMatchObject({ type: "infer", name: "Four", status: "initial", progress: 0, attempts: 0 });
    const { list } = (await app.call("GET", `/api/images?task_id=${body.id}`, { token: owner.token })).body;
    expect(list.map((image: Json) => image.seed)).toEqual([2_147_483_646, 2_147_483_647, 0, 1]);
    expect(list.map((image: Json) => image.id)).toEqual(body.image_ids);
  });

  test.each([1, 16])("count %d", async (count) => {
    expect((await post({ type: "infer", prompt: "x", count })).body.image_ids).toHaveLength(count);
  });

  test("is public only when all that it makes is", async () => {
    const { body } = await post({ type: "infer", prompt: "x", count: 2, public: true });
    expect(body.public).toBe(true);
    const show = async (id: number, isPublic: boolean) => {
      await app.call("PATCH", `/api/images/${id}`, { token: owner.token, body: { public: isPublic } });
      return (await app.call("GET", `/api/tasks/${body.id}`, { token: stranger.token })).status;
    };
    expect(await show(body.image_ids[0], false)).toBe(404);
    expect(await show(body.image_ids[0], true)).toBe(200);
  });
});

describe("what is refused", () => {
  const cases: { what: string; body: Json; faulty: string[] }[] = [
    { what: "no type", body: {}, faulty: ["/type"] },
    { what: "another type", body: { type: "paint" }, faulty: ["/type"] },
    { what: "no prompt", body: { type: "infer" }, faulty: ["/prompt"] },
    { what: "none to make", body: { type: "infer", prompt: "x", count: 0 }, faulty: ["/count"] },
    { what: "too many", body: { type: "infer", prompt: "x", count: 17 }, faulty: ["/count"] },
    {
      what: "fields of a training",
      body: { type: "infer", prompt: "x", epochs: 5, dataset_id: 1, train: {} },
      faulty: ["/epochs", "/train", "/dataset_id"],
    },
    {
      what: "fields of an inference",
      body: { type: "train", dataset_id: dataset.id, prompt: "x", count: 2 },
      faulty: ["/prompt", "/count"],
    },
    { what: "nothing to train on", body: { type: "train" }, faulty: ["/dataset_id"] },
    { what: "a status", body: { type: "infer", prompt: "x", status: "success" }, faulty: ["/status"] },
    { what: "a model that is not there", body: { type: "train", model_id: 2_000_000_000 }, faulty: ["/model_id"] },
  ];
  test.each(cases)("$what: 422", async ({ body, faulty }) => {
    const answer = await post(body);
    expect([answer.status, pointers(answer)?.sort()]).toEqual([422, faulty.sort()]);
  });
});

describe("training", () => {
  test("makes a model from the model's fields, its type as model_type", async () => {
    const body = { type: "train", model_type: "ti", dataset_id: dataset.id, name: "Mine", epochs: 5 };
    const { status, body: task } = await post(body);
    expect([status, task.type]).toEqual([201, "train"]);
    const model = (await app.call("GET", `/api/models/${task.model_id}`, { token: owner.token })).body;
    expect(model).toMatchObject({ type: "ti", name: "Mine", epochs: 5, task_id: task.id, dataset_id: dataset.id });
  });

  test("again: not while one is under way, not of a registered file, not by a stranger", async () => {
    const model = await app.make("models", owner.token, { dataset_id: dataset.id, public: true });
    const again = (token?: string) => post({ type: "train", model_id: model.id }, token);
    expect([(await again()).status, (await again()).body.code]).toEqual([409, "training-under-way"]);
    expect((await again(stranger.token)).status).toBe(403);
    await patch(model.task_id, { status: "canceled" });
    expect((await again()).status).toBe(201);
    const registered = await app.makeModel(owner.token);
    expect(pointers(await post({ type: "train", model_id: registered.id }))).toEqual(["/model_id"]);
    const hidden = await app.makeModel(stranger.token);
    expect(pointers(await post({ type: "train", model_id: hidden.id }))).toEqual(["/model_id"]);
  });

  test("of two at once, one is taken", async () => {
    const model = await app.make("models", owner.token, { dataset_id: dataset.id });
    await patch(model.task_id, { status: "canceled" });
    const answers = await Promise.all([1, 2, 3].map(() => post({ type: "train", model_id: model.id })));
    expect(answers.map((answer) => answer.status).sort()).toEqual([201, 409, 409]);
  });
});

describe("priority", () => {
  test("is the admins'", async () => {
    expect((await post({ type: "infer", prompt: "x", priority: 0 })).status).toBe(403);
    const { body } = await post({ type: "infer", prompt: "x" });
    expect((await patch(body.id, { priority: 5 })).status).toBe(403);
    expect((await patch(body.id, { priority: 5 }, admin.token)).body.priority).toBe(5);
    expect((await patch(body.id, { priority: 101 }, admin.token)).status).toBe(422);
    expect((await post({ type: "infer", prompt: "x", priority: 7 }, admin.token)).body.priority).toBe(7);
  });
});

describe("cancel and retry", () => {
  const end = (id: number, status: string) => app.sql`
    update tasks set status = ${status}, finished_at = now(),
      error = ${status === "error" ? app.sql.json({ class: "bad-input", detail: "no" }) : null}
    where id = ${id}
  `;
  const statusOf = async (path: string) => (await app.call("GET", `/api/${path}`, { token: owner.token })).body.status;

  test.each(["initial", "ready", "waiting"])("a task that is %s is canceled, once", async (status) => {
    const { body } = await post({ type: "infer", prompt: "x" });
    await app.sql`update tasks set status = ${status} where id = ${body.id}`;
    const canceled = await patch(body.id, { status: "canceled" });
    expect(canceled.body).toMatchObject({ status: "canceled" });
    expect(canceled.body.finished_at).toBeString();
    const again = await patch(body.id, { status: "canceled" });
    expect([again.status, again.body]).toEqual([200, { ...canceled.body, updated_at: again.body.updated_at }]);
    expect(await statusOf(`images/${body.image_ids[0]}`)).toBe("error");
  });

  test.each(["error", "canceled"])("what ended as %s is tried again, from the start", async (status) => {
    const { body } = await post({ type: "infer", prompt: "x" });
    await end(body.id, status);
    const again = await patch(body.id, { status: "waiting" });
    expect(again.body).toMatchObject({ status: "initial", error: null, finished_at: null, progress: 0 });
    expect(await statusOf(`images/${body.image_ids[0]}`)).toBe("initial");
  });

  test("a training that ended is tried again, and its model with it", async () => {
    const model = await app.make("models", owner.token, { dataset_id: dataset.id });
    await end(model.task_id, "error");
    expect(await statusOf(`models/${model.id}`)).toBe("error");
    await patch(model.task_id, { status: "waiting" });
    expect(await statusOf(`models/${model.id}`)).toBe("initial");
  });

  test("not what has ended, not without its outputs, not beside another training: 409", async () => {
    const done = (await post({ type: "infer", prompt: "x" })).body;
    await app.sql`update tasks set status = 'success', finished_at = now() where id = ${done.id}`;
    expect((await patch(done.id, { status: "canceled" })).body.code).toBe("conflict");
    expect((await patch(done.id, { status: "waiting" })).body.code).toBe("task-not-retryable");

    const gone = (await post({ type: "infer", prompt: "x" })).body;
    await app.call("DELETE", `/api/images/${gone.image_ids[0]}`, { token: owner.token });
    expect((await patch(gone.id, { status: "waiting" })).body.code).toBe("task-not-retryable");

    const model = await app.make("models", owner.token, { dataset_id: dataset.id });
    await patch(model.task_id, { status: "canceled" });
    const second = (await post({ type: "train", model_id: model.id })).body;
    const retry = await patch(model.task_id, { status: "waiting" });
    expect([retry.status, retry.body.code]).toEqual([409, "training-under-way"]);
    expect(await statusOf(`models/${model.id}`)).toBe("initial");
    const kept = await app.call("GET", `/api/models/${model.id}`, { token: owner.token });
    expect(kept.body.task_id).toBe(second.id);
  });

  test.each(["success", "running", "ready", "nothing", null])("%p is no status to ask for", async (status) => {
    const { body } = await post({ type: "infer", prompt: "x" });
    expect((await patch(body.id, { status })).status).toBe(422);
  });

  test("of a cancel and a retry at once, both see one order of things", async () => {
    const { body } = await post({ type: "infer", prompt: "x" });
    const answers = await Promise.all(
      ["canceled", "waiting", "canceled", "waiting"].map((status) => patch(body.id, { status })),
    );
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([200]));
    expect(await statusOf(`tasks/${body.id}`)).toBeOneOf(["canceled", "initial"]);
  });
});

test.each(["error", "canceled"])(
  "a task that ends as %s sums up its images: what was finished stays",
  async (status) => {
    const { body } = await post({ type: "infer", prompt: "x", count: 2 });
    const [first, second] = body.image_ids;
    const { key } = await app.upload(owner.token);
    await app.sql`update tasks set status = 'running' where id = ${body.id}`;
    await app.sql`update images set status = 'success', progress = 100, file_key = ${key} where id = ${first}`;
    const error = status === "error" ? app.sql.json({ class: "engine-failed", detail: "no picture" }) : null;
    await app.sql`update tasks set status = ${status}, error = ${error}, finished_at = now() where id = ${body.id}`;
    const get = async (path: string) => (await app.call("GET", `/api/${path}`, { token: owner.token })).body;
    expect(await get(`images/${first}`)).toMatchObject({ status: "success", url: expect.any(String), error: null });
    expect((await get(`images/${second}`)).status).toBe("error");
    expect((await get(`tasks/${body.id}`)).status).toBe(status);
  },
);

test("a deleted task takes its unfinished images along", async () => {
  const { body } = await post({ type: "infer", prompt: "x", count: 2 });
  expect((await app.call("DELETE", `/api/tasks/${body.id}`, { token: owner.token })).status).toBe(204);
  for (const id of body.image_ids) {
    expect((await app.call("GET", `/api/images/${id}`, { token: owner.token })).status).toBe(404);
  }
});

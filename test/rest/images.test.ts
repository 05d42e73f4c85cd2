/** Images: what a POST orders, and what others see of it. No worker runs here: they stay accepted. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

const post = (body: Json, token = owner.token) => app.call("POST", "/api/images", { token, body });
const get = async (id: number, token?: string) => (await app.call("GET", `/api/images/${id}`, { token })).body;
const bare = (url: string) => url.split("?")[0] as string;

test("a prompt is enough: a seed is drawn, and an inference task of one is added", async () => {
  const { status, body } = await post({ prompt: "a lake at dawn" });
  expect(status).toBe(201);
  expect(body).toMatchObject({
    name: "a lake at dawn",
    prompt: "a lake at dawn",
    negative_prompt: "",
    width: 512,
    height: 512,
    num_inference_steps: 20,
    guidance_scale: 7,
    scheduler: "K_EULER",
    from_image: null,
    strength: null,
    model_id: null,
    base_model: "SD1.5",
    status: "initial",
    progress: 0,
    url: null,
    thumbnail: null,
    error: null,
    public: false,
  });
  expect(body.seed).toBeWithin(0, 2 ** 31);
  expect((await post({ prompt: "a lake at dawn" })).body.seed).not.toBe(body.seed);
  const task = (await app.call("GET", `/api/tasks/${body.task_id}`, { token: owner.token })).body;
  expect(task).toMatchObject({ type: "infer", image_ids: [body.id], status: "initial" });
  expect(task.params).toMatchObject({ seed: body.seed, prompt: "a lake at dawn" });
});

describe("a picture to start from", () => {
  test("is an own upload or a public address; strength has its default", async () => {
    const { url } = await app.upload(owner.token);
    const { status, body } = await post({ prompt: "x", from_image: new URL(url).pathname });
    expect([status, bare(body.from_image), body.strength]).toEqual([201, bare(url), 0.75]);
    const remote = await post({ prompt: "x", from_image: "https://example.com/a.png", strength: 0.5 });
    expect(remote.body).toMatchObject({ from_image: "https://example.com/a.png", strength: 0.5 });
  });

  test.each([
    { body: { strength: 0.5 }, pointer: "/strength" },
    { body: { from_image: "http://127.0.0.1/a.png" }, pointer: "/from_image" },
    { body: { from_image: "/api/files/none.png" }, pointer: "/from_image" },
    { body: { from_image: "https://example.com/a.png", strength: 1.1 }, pointer: "/strength" },
  ])("$body is 422", async ({ body, pointer }) => {
    const answer = await post({ prompt: "x", ...body });
    expect([answer.status, answer.body.errors?.[0]?.pointer]).toEqual([422, pointer]);
  });

  test("a stranger's private upload is refused as a missing one", async () => {
    const { url } = await app.upload(stranger.token);
    const [hidden, missing] = await Promise.all(
      [url, "/api/files/none.png"].map((from_image) => post({ prompt: "x", from_image })),
    );
    expect([hidden?.status, hidden?.text]).toEqual([422, missing?.text as string]);
  });

  test("in a public image a private one is null to others: no address that would not load", async () => {
    const { url } = await app.upload(owner.token);
    const { body } = await post({ prompt: "x", from_image: url, public: true });
    expect(bare((await get(body.id, owner.token)).from_image)).toBe(bare(url));
    expect(bare((await get(body.id, admin.token)).from_image)).toBe(bare(url));
    expect((await get(body.id, stranger.token)).from_image).toBeNull();
    expect((await get(body.id)).from_image).toBeNull();
    await app.make("datasets", owner.token, { images: [url], public: true });
    expect((await get(body.id, stranger.token)).from_image).toBe(bare(url));
  });

  test("an address elsewhere is the owner's own words", async () => {
    const { body } = await post({ prompt: "x", from_image: "https://example.com/secret-path.png", public: true });
    expect((await get(body.id, owner.token)).from_image).toBe("https://example.com/secret-path.png");
    expect((await get(body.id, stranger.token)).from_image).toBeNull();
  });
});

describe("the model", () => {
  test("must be trained: 409, after all that is wrong with the body", async () => {
    const dataset = await app.make("datasets", owner.token, { images: [] });
    const model = await app.make("models", owner.token, { dataset_id: dataset.id });
    const answer = await post({ prompt: "x", model_id: model.id });
    expect([answer.status, answer.body.code]).toEqual([409, "model-not-ready"]);
    expect((await post({ prompt: "x", model_id: model.id, width: 1 })).status).toBe(422);
  });

  test("decides the base model", async () => {
    const model = await app.makeModel(owner.token, { base_model: "SD2" });
    expect((await post({ prompt: "x", model_id: model.id })).body.base_model).toBe("SD2");
    const other = await post({ prompt: "x", model_id: model.id, base_model: "SD1.5" });
    expect([other.status, other.body.errors[0].pointer]).toEqual([422, "/base_model"]);
  });

  test("of a stranger is refused as a missing one, unless it is public", async () => {
    const model = await app.makeModel(stranger.token);
    const hidden = await post({ prompt: "x", model_id: model.id });
    const missing = await post({ prompt: "x", model_id: 2_000_000_000 });
    expect(hidden.text.replaceAll(String(model.id), "ID")).toBe(missing.text.replaceAll("2000000000", "ID"));
    expect(hidden.status).toBe(422);
    await app.call("PATCH", `/api/models/${model.id}`, { token: stranger.token, body: { public: true } });
    expect((await post({ prompt: "x", model_id: model.id })).status).toBe(201);
  });

  test("that is private is null to others in a public image", async () => {
    const model = await app.makeModel(owner.token);
    const { body } = await post({ prompt: "x", model_id: model.id, public: true });
    expect((await get(body.id, owner.token)).model_id).toBe(model.id);
    expect((await get(body.id, stranger.token)).model_id).toBeNull();
    const found = await app.call("GET", `/api/images?model_id=${model.id}`, { token: stranger.token });
    expect(found.body.total).toBe(0);
  });
});

test.each([{}, { prompt: "" }, { prompt: "  " }, { prompt: "x".repeat(10_001) }, { prompt: 7 }])(
  "a prompt is required: %j is 422",
  async (body) => {
    const answer = await post(body);
    expect([answer.status, answer.body.errors?.[0]?.pointer]).toEqual([422, "/prompt"]);
  },
);

test("PATCH changes name, tags and public, nothing else", async () => {
  const { body } = await post({ prompt: "x" });
  const patch = (change: Json) => app.call("PATCH", `/api/images/${body.id}`, { token: owner.token, body: change });
  const change = { name: "New", tags: ["new"], public: true };
  expect((await patch(change)).body).toMatchObject(change);
  for (const field of ["prompt", "seed", "width", "status", "url", "user_id", "model_id", "from_image"]) {
    expect([field, (await patch({ [field]: 1 })).status]).toEqual([field, 422]);
  }
});

test("deleting an unfinished image cancels it", async () => {
  const { body } = await post({ prompt: "a lake" });
  expect((await app.call("DELETE", `/api/images/${body.id}`, { token: owner.token })).status).toBe(204);
  const task = await app.call("GET", `/api/tasks/${body.task_id}`, { token: owner.token });
  expect(task.body).toMatchObject({ status: "canceled", image_ids: [] });
});

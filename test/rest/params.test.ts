/** The parameter catalogue: what it says, and that the validators believe it. */
import { describe, expect, spyOn, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";
import { anotherProcess } from "../helpers/process.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const admin = await app.admin();

const patch = (name: string, value: Json) =>
  app.call("PATCH", `/api/params/${name}`, { token: admin.token, body: { value } });
const draw = (body: Json) => app.call("POST", "/api/images", { token: owner.token, body: { prompt: "x", ...body } });

describe("the catalogue", () => {
  test("is a list of entries, for guests too", async () => {
    const { body } = await app.call("GET", "/api/params?sort=name");
    expect(body).toMatchObject({ total: 5, next: false });
    expect(body.list.map((entry: Json) => entry.name)).toEqual(["dataset", "image", "model", "server", "task"]);
    for (const entry of body.list) expect(Object.keys(entry)).toEqual(["name", "value"]);
  });

  test("has the model's parameters with limits, defaults and labels", async () => {
    const { name, value } = (await app.call("GET", "/api/params/model")).body;
    expect(name).toBe("model");
    expect(value.type.enum.map((choice: Json) => choice.value)).toEqual(["lora", "ckp", "hyper", "ti"]);
    expect(value.base_model.enum.map((choice: Json) => choice.value)).toEqual(["SD1.5", "SD2"]);
    expect(value.epochs).toMatchObject({ type: "integer", minimum: 1, default: expect.any(Number) });
    for (const field of ["resolution", "learning_rate", "rank", "batch_size", "seed"]) {
      expect(value[field]).toMatchObject({ minimum: expect.any(Number), maximum: expect.any(Number) });
    }
    expect((await app.call("GET", "/api/params/task")).body.value.type.enum).toEqual([
      { value: "train", label: { en: "Training", zh: "訓練" } },
      { value: "infer", label: { en: "Inference", zh: "推理" } },
    ]);
  });

  test("an entry that is not there is 404", async () => {
    for (const name of ["nothing", "constructor", "__proto__", "Model"]) {
      expect((await app.call("GET", `/api/params/${name}`)).status).toBe(404);
    }
  });
});

describe("every field's limits are those that a POST is judged by", async () => {
  const { value } = (await app.call("GET", "/api/params/image")).body;
  const cases = ["width", "height", "num_inference_steps", "guidance_scale", "seed"].flatMap((field) => [
    { field, given: value[field].minimum, status: 201 },
    { field, given: value[field].maximum, status: 201 },
    { field, given: value[field].minimum - (value[field].multipleOf ?? 1), status: 422 },
    { field, given: value[field].maximum + (value[field].multipleOf ?? 1), status: 422 },
    { field, given: String(value[field].minimum), status: 422 },
    { field, given: null, status: 422 },
  ]);
  test.each(cases)("$field = $given: $status", async ({ field, given, status }) => {
    const answer = await draw({ [field]: given });
    expect(answer.status).toBe(status);
    if (status === 422) expect(answer.body.errors).toEqual([{ pointer: `/${field}`, detail: expect.any(String) }]);
  });

  test.each(value.scheduler.enum.map((choice: Json) => choice.value))("scheduler %s", async (scheduler) => {
    expect((await draw({ scheduler })).body.scheduler).toBe(scheduler);
  });

  test("what is left out gets the default", async () => {
    const { body } = await draw({});
    for (const field of ["width", "height", "num_inference_steps", "guidance_scale", "scheduler", "negative_prompt"]) {
      expect(body[field]).toBe(value[field].default);
    }
  });
});

describe("admins narrow limits and change defaults", () => {
  test("it acts on the next request, and null takes it back", async () => {
    const answer = await patch("image", {
      width: { maximum: 1024, default: 256 },
      scheduler: { enum: ["DDIM", "K_EULER"] },
    });
    expect(answer.status).toBe(200);
    expect(answer.body.value.width).toMatchObject({ minimum: 64, maximum: 1024, default: 256 });
    expect(answer.body.value.scheduler.enum.map((choice: Json) => choice.value)).toEqual(["DDIM", "K_EULER"]);
    expect((await draw({ width: 1024 })).status).toBe(201);
    expect((await draw({ width: 1032 })).status).toBe(422);
    expect((await draw({ scheduler: "PNDM" })).status).toBe(422);
    expect((await draw({})).body.width).toBe(256);
    await patch("image", { width: { maximum: null, default: null }, scheduler: { enum: null } });
    expect((await draw({ width: 2048 })).status).toBe(201);
    expect((await draw({ scheduler: "PNDM" })).body.width).toBe(512);
  });

  test("a merge patch leaves what it does not name", async () => {
    await patch("model", { rank: { maximum: 64 } });
    const { body } = await patch("model", { rank: { default: 4 } });
    expect(body.value.rank).toMatchObject({ maximum: 64, default: 4 });
    await patch("model", { rank: { maximum: null, default: null } });
  });

  test("rows that were stored before stay as they are", async () => {
    const { body } = await draw({ width: 2048 });
    await patch("image", { width: { maximum: 1024 } });
    const stored = await app.call("GET", `/api/images/${body.id}`, { token: owner.token });
    const renamed = await app.call("PATCH", `/api/images/${body.id}`, { token: owner.token, body: { name: "Wide" } });
    await patch("image", { width: { maximum: null } });
    expect([stored.body.width, renamed.status]).toEqual([2048, 200]);
  });

  test("it acts on other processes within a second, and the document goes on showing the built-in limits", async () => {
    const other = anotherProcess(app);
    const maximum = async () => (await other("GET", "/api/params/image")).body.value.width.maximum;
    const wide = () => other("POST", "/api/images", { token: owner.token, body: { prompt: "x", width: 2048 } });
    expect((await wide()).status).toBe(201);
    const usual = await maximum();
    await patch("image", { width: { maximum: 1024 } });
    const now = performance.now.bind(performance);
    const clock = spyOn(performance, "now").mockImplementation(() => now() + 1000);
    const [narrowed, refused] = [await maximum(), await wide()];
    clock.mockRestore();
    const { components } = (await app.call("GET", "/api/openapi.json")).body;
    await patch("image", { width: { maximum: null } });
    expect([narrowed, refused.status]).toEqual([1024, 422]);
    expect(components.schemas.ImageCreate.properties.width.maximum).toBe(usual);
  });

  const refused: { what: string; value: Json; pointer: string }[] = [
    { what: "a wider maximum", value: { width: { maximum: 4096 } }, pointer: "/value/width/maximum" },
    { what: "a lower minimum", value: { width: { minimum: 8 } }, pointer: "/value/width/minimum" },
    { what: "crossed limits", value: { width: { minimum: 1024, maximum: 512 } }, pointer: "/value/width" },
    { what: "another choice", value: { scheduler: { enum: ["MINE"] } }, pointer: "/value/scheduler/enum" },
    { what: "no choice", value: { scheduler: { enum: [] } }, pointer: "/value/scheduler/enum" },
    { what: "a default outside", value: { width: { default: 1 } }, pointer: "/value/width/default" },
    { what: "a default that is cut off", value: { width: { maximum: 256 } }, pointer: "/value/width/default" },
    { what: "a default of another type", value: { width: { default: "wide" } }, pointer: "/value/width/default" },
    { what: "limits of a text", value: { prompt: { maximum: 5 } }, pointer: "/value/prompt/maximum" },
    { what: "an unknown field", value: { depth: { maximum: 5 } }, pointer: "/value/depth" },
    { what: "an inherited name", value: { constructor: {} }, pointer: "/value/constructor" },
    { what: "another inherited name", value: { toString: { default: 1 } }, pointer: "/value/toString" },
    { what: "an unknown property", value: { width: { step: 5 } }, pointer: "/value/width" },
    { what: "no object", value: 7, pointer: "/value" },
  ];
  test.each(refused)("$what is 422", async ({ value, pointer }) => {
    const answer = await patch("image", value);
    expect([answer.status, answer.body.errors?.[0]?.pointer]).toEqual([422, pointer]);
    expect((await app.call("GET", "/api/params/image")).body.value.width.maximum).toBe(2048);
  });
});

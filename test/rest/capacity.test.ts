/** Orders that no server could carry out, and users who wait for too much. */
import { describe, expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const app = await startApp({ maxWaitingPerUser: 5 });
const { server, clear } = poolRows(app.sql);
const user = await app.signUp();
const dataset = await app.make("datasets", user.token, { images: [] });
const post = (path: string, body: unknown, token = user.token) => app.call("POST", `/api/${path}`, { token, body });
const infer = { type: "infer", prompt: "x" };
const train = { type: "train", dataset_id: dataset.id };

describe("what no server there is could ever run is refused, at the field that asks for it", () => {
  test("without any server of the type a task waits for one", async () => {
    await clear();
    await server({ type: "train" });
    expect((await post("images", { prompt: "x", base_model: "SD2" })).status).toBe(201);
  });

  test("and so it does while a server of the type has not been probed", async () => {
    await clear();
    await server({ bases: [] });
    await server({ isProbed: false });
    expect((await post("images", { prompt: "x", base_model: "SD2" })).status).toBe(201);
  });

  test.each([
    ["images", { prompt: "x", base_model: "SD2" }, "/base_model", "no server has a checkpoint for SD2"],
    ["images", { prompt: "x", scheduler: "KLMS" }, "/scheduler", "no server offers KLMS"],
    ["tasks", { ...infer, scheduler: "KLMS" }, "/scheduler", "no server offers KLMS"],
    ["tasks", { ...train, model_type: "ti" }, "/model_type", "no server can train a model of type ti"],
    ["models", { dataset_id: dataset.id, type: "ti" }, "/type", "no server can train a model of type ti"],
    ["models", { dataset_id: dataset.id, base_model: "SD2" }, "/base_model", "no server has a checkpoint for SD2"],
  ])("%s %p", async (path, body, pointer, detail) => {
    await clear();
    await server({ schedulers: ["DDIM", "K_EULER"] });
    await server({ type: "train", status: "error" });
    const answer = await post(path, body);
    expect([answer.status, answer.body.errors]).toEqual([422, [{ pointer, detail }]]);
  });

  test("a model that no server can be given, and in a bulk the object that wants it", async () => {
    await clear();
    await server({ apply: ["ckp"] });
    const model = await app.makeModel(user.token);
    const { body } = await post("images", [{ prompt: "x" }, { prompt: "x", model_id: model.id }]);
    expect(body.errors).toEqual([{ pointer: "/1/model_id", detail: "no server can use such a model" }]);
    await app.sql`delete from servers`;
    await server({ apply: ["lora"], maxUploadBytes: 0 });
    const large = await post("images", { prompt: "x", model_id: model.id });
    expect(large.body.errors[0].detail).toBe("the model's file is too large to be sent to any server");
    await server({ apply: ["lora"] });
    expect((await post("images", { prompt: "x", model_id: model.id })).status).toBe(201);
  });
});

describe("tasks of one user that have not begun", () => {
  test("are limited: 429, whatever they are; another user's do not count", async () => {
    await clear();
    const other = await app.signUp();
    expect((await post("tasks", [infer, infer, infer, infer, infer, infer], other.token)).body.code).toBe(
      "too-many-waiting",
    );
    expect((await post("tasks", [infer, infer, infer, train], user.token)).status).toBe(201);
    expect((await post("models", { dataset_id: dataset.id })).status).toBe(201);
    for (const [path, body] of [
      ["images", { prompt: "x" }],
      ["tasks", train],
    ] as const) {
      const refused = await post(path, body);
      expect([refused.status, refused.body.code]).toEqual([429, "too-many-waiting"]);
      expect(Number(refused.headers.get("Retry-After"))).toBeGreaterThan(0);
    }
    expect((await post("images", { prompt: "x" }, other.token)).status).toBe(201);
    await app.sql`update tasks set status = 'running' where id = (select min(id) from tasks where user_id = ${user.id})`;
    expect((await post("images", { prompt: "x" })).status).toBe(201);
  });

  test("also of posts at the same time: together they do not pass the limit", async () => {
    await clear();
    const crowd = await Promise.all(Array.from({ length: 20 }, () => post("images", { prompt: "x" })));
    expect(crowd.filter(({ status }) => status === 201)).toHaveLength(5);
  });
});

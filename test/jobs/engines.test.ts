/** A pool of three kinds of engines: whatever one of them can do is done, and the rest is refused with a reason. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { A1111Double } from "../helpers/a1111-double.ts";
import type { Json } from "../helpers/app.ts";
import { ComfyuiDouble } from "../helpers/comfyui-double.ts";
import { makeKohyaHost } from "../helpers/kohya/host.ts";
import { startPool } from "../helpers/pool.ts";
import { startSshd } from "../helpers/sshd.ts";

const pool = await startPool({ engines: [] });
const directory = (name: string) => {
  const path = join(pool.directory, name);
  mkdirSync(path);
  return path;
};
const sshd = await startSshd();
const host = makeKohyaHost(sshd);
const painter = new ComfyuiDouble({ modelsDir: directory("comfyui") });
const webui = new A1111Double({ directory: directory("a1111") });
afterAll(() => Promise.all([painter.stop(), webui.stop(), host.stop().then(() => sshd.stop())]));

const servers: Record<string, number> = {};
async function addServer(name: string, fields: Json): Promise<void> {
  const { id } = await pool.make("servers", pool.admin.token, { name, ...fields });
  servers[name] = id;
  await pool.untilServer(id, "ready");
}
const owner = await pool.signUp();
const read = (path: string): Promise<Json> => pool.get(path, owner.token);
const post = (path: string, body: Json) => pool.call("POST", `/api/${path}`, { token: owner.token, body });
const models: Record<string, Json> = {};
async function change(name: string, body: Json, status = "ready"): Promise<void> {
  const answer = await pool.call("PATCH", `/api/servers/${servers[name]}`, { token: pool.admin.token, body });
  if (answer.status !== 200) throw new Error(answer.text);
  await pool.untilServer(servers[name] as number, status);
}

beforeAll(async () => {
  const at = (port: number, shared_dir?: string) => ({ ip: "127.0.0.1", port, shared_dir });
  await Promise.all([
    addServer("comfyui", { type: "infer", ...at(painter.target.port, join(pool.directory, "comfyui")) }),
    addServer("a1111", { type: "train", ...at(webui.target.port, webui.target.sharedDir) }),
    addServer("kohya", {
      ...{ type: "train", engine: "kohya", ...at(sshd.port, host.base) },
      ...{ username: sshd.username, private_key: sshd.privateKey },
    }),
  ]);
  const dataset = await pool.makeDataset(owner.token, 1);
  for (const type of ["lora", "ckp", "ti", "hyper"]) {
    models[type] = await pool.make("models", owner.token, {
      ...{ name: `A ${type}`, type, dataset_id: dataset.id, epochs: 6 },
      train: { resolution: 64, rank: 4 },
    });
  }
});

test.each([
  { type: "lora", engines: ["kohya"] },
  { type: "ckp", engines: ["kohya"] },
  { type: "ti", engines: ["kohya", "a1111"] },
  { type: "hyper", engines: ["a1111"] },
])("a model of type $type is trained by $engines", async ({ type, engines }) => {
  expect(await pool.finished(models[type].task_id)).toMatchObject({ status: "success", attempts: 1 });
  models[type] = await read(`models/${models[type].id}`);
  expect(engines.map((name) => servers[name])).toContain(models[type].server_id);
});

test("a pickle is kept as it is and given out as bytes that mean nothing to a browser", async () => {
  const { id, model_path } = models.hyper;
  expect(model_path).toEndWith(".pt");
  const url = new Request(`http://atelier.test/api/models/${id}/file`, {
    headers: { Authorization: `Bearer ${owner.token}` },
  });
  const answer = await pool.fetch(url);
  expect(answer.headers.get("content-type")).toBe("application/octet-stream");
  expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  expect(answer.headers.get("content-disposition")).toContain('filename="A hyper.pt"');
  expect(await answer.text()).toStartWith("trained atelier-");
  const asLora = await post("models", { file: `/api/files/${model_path}`, type: "lora" });
  expect(asLora.status).toBe(422);
  expect(asLora.body.errors).toEqual([{ pointer: "/type", detail: "must be ti or hyper for this file" }]);
  expect((await post("models", { file: `/api/files/${model_path}`, type: "hyper" })).status).toBe(201);
});

test.each([
  { type: "lora", node: "LoraLoader" },
  { type: "ckp", node: "CheckpointLoaderSimple" },
  { type: "ti", node: "CLIPTextEncode" },
  { type: "hyper", node: "HypernetworkLoader" },
])("a model of type $type is used", async ({ type, node }) => {
  const order = { prompt: "a lake", width: 64, height: 64, num_inference_steps: 2, model_id: models[type].id };
  const image = await pool.make("images", owner.token, order);
  expect(await pool.finished(image.task_id)).toMatchObject({ status: "success", server_id: servers.comfyui });
  const nodes = Object.values(painter.submitted.at(-1)?.graph ?? {}).filter(({ class_type }) => class_type === node);
  expect(JSON.stringify(nodes)).toContain(models[type].hash);
});

test("the same models are used on the other engine when the first is drained", async () => {
  await change("comfyui", { status: "closing" }, "closing");
  await change("a1111", { type: "infer" });
  const applied: Record<string, string> = {
    lora: `<lora:${models.lora.hash}:1> a lake`,
    ckp: "a lake",
    ti: `(${models.ti.hash}:1), a lake`,
    hyper: `<hypernet:${models.hyper.hash}:1> a lake`,
  };
  for (const [type, prompt] of Object.entries(applied)) {
    const order = { prompt: "a lake", width: 64, height: 64, num_inference_steps: 2, model_id: models[type].id };
    const image = await pool.make("images", owner.token, order);
    expect(await pool.finished(image.task_id)).toMatchObject({ status: "success", server_id: servers.a1111 });
    expect(webui.sent("POST /sdapi/v1/txt2img").at(-1)).toMatchObject({ prompt });
  }
  const settings = webui.sent("POST /sdapi/v1/txt2img").map((body) => JSON.stringify(body.override_settings));
  expect(settings.join()).toContain(models.ckp.hash);
  await change("a1111", { type: "train" });
  await change("comfyui", { status: "ready" });
});

test("what lies on the engines for our users is shown to nobody", async () => {
  const placed = readdirSync(join(pool.directory, "comfyui"), { recursive: true }).join();
  expect(placed).toContain(models.ti.hash);
  const list = await pool.call("GET", "/api/servers");
  for (const { hash } of Object.values(models)) expect(list.text).not.toContain(hash);
  expect(list.text).toContain("v1-5-pruned-emaonly.safetensors");
});

test("what no server can do is refused, and the answer says what is missing", async () => {
  const dataset = await pool.makeDataset(owner.token, 1);
  const train = (type: string) => post("models", { name: type, type, dataset_id: dataset.id });
  const use = (type: string) => post("images", { prompt: "a lake", model_id: models[type].id });
  // Without their hosts' files, one trains nothing and the other takes no more than can be uploaded.
  for (const name of ["a1111", "comfyui"]) await change(name, { shared_dir: null });
  const refused = await train("hyper");
  expect(refused.status).toBe(422);
  expect(refused.body.errors).toEqual([{ pointer: "/type", detail: "no server can train a model of type hyper" }]);
  for (const type of ["ti", "hyper"]) {
    const answer = await use(type);
    expect(answer.status).toBe(422);
    expect(answer.body.errors).toEqual([{ pointer: "/model_id", detail: "no server can use such a model" }]);
  }
  const sd2 = await post("models", { name: "sd2", base_model: "SD2", dataset_id: dataset.id });
  expect(sd2.body.errors).toEqual([{ pointer: "/base_model", detail: "no server has a checkpoint for SD2" }]);
});

/** The whole of Atelier around a real ComfyUI, see comfyui.ts: from a data set to a picture made with what it taught. */
import { test as define, expect } from "bun:test";
import sharp from "sharp";
import type { Json } from "../helpers/app.ts";
import { engineTarget } from "../helpers/engine-target.ts";
import { startPool } from "../helpers/pool.ts";

const target = engineTarget("COMFYUI_URL", "http://127.0.0.1:8188");
const test = define.skipIf(target === null);
const patienceMs = 600_000;
const pool = target && (await startPool({ engines: [], workers: 1 }));

function parts() {
  if (!pool || !target) throw new Error("no engine is named");
  const { host, port, tls, username = "", password } = target;
  return { pool, token: pool.admin.token, address: { ip: host, port, tls, username, password } };
}

test(
  "a LoRA is trained, handed from worker to worker, and then painted with",
  async () => {
    const { pool, token, address } = parts();
    const server = await pool.make("servers", token, { name: "real", type: "train", ...address });
    await pool.untilServer(server.id, "ready");
    const { engine, checkpoints } = await pool.get(`servers/${server.id}`, token);
    expect(engine).toBe("comfyui");
    if (!checkpoints["SD1.5"]) {
      const { models } = await pool.get(`servers/${server.id}`, token);
      const { name } = models.find(({ type }: Json) => type === "checkpoint");
      await pool.call("PATCH", `/api/servers/${server.id}`, { token, body: { checkpoints: { "SD1.5": name } } });
    }

    const dataset = await pool.makeDataset(token, 3);
    const model = await pool.make("models", token, {
      dataset_id: dataset.id,
      epochs: 12,
      train: { resolution: 64, rank: 2 },
    });
    const watch = await pool.server.watch(`tasks/${model.task_id}`, { token });
    await watch.until(({ stage }) => stage === "steps");
    await pool.addWorker();
    await pool.workers[0]?.stop();
    await watch.until(({ status }) => ["success", "error"].includes(status));
    // One attempt: the second worker went on with the run of the first.
    expect(await pool.get(`tasks/${model.task_id}`, token)).toMatchObject({
      status: "success",
      attempts: 1,
      error: null,
    });
    const progress = watch.valuesOf("progress");
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
    // No server here could make a cover yet.
    expect(await pool.get(`models/${model.id}`, token)).toMatchObject({ status: "success", image: null });

    await pool.call("PATCH", `/api/servers/${server.id}`, { token, body: { type: "infer" } });
    const order = { type: "infer", model_id: model.id, prompt: "a square", count: 2, width: 64, height: 64 };
    const task = await pool.make("tasks", token, { ...order, num_inference_steps: 4 });
    expect(await pool.finished(task.id)).toMatchObject({ status: "success", attempts: 1 });
    for (const id of task.image_ids) {
      const { url } = await pool.get(`images/${id}`, token);
      expect(await sharp(await pool.download(url)).metadata()).toMatchObject({ width: 64, height: 64 });
    }
  },
  patienceMs,
);

test(
  "a cancel reaches the engine, and what waits behind it is made",
  async () => {
    const { pool, token } = parts();
    const order = { type: "infer", prompt: "a square", width: 64, height: 64 };
    const long = await pool.make("tasks", token, { ...order, num_inference_steps: 500 });
    const next = await pool.make("tasks", token, { ...order, num_inference_steps: 4 });
    const watch = await pool.server.watch(`tasks/${long.id}`, { token });
    await watch.until(({ stage }) => stage === "steps");
    await pool.call("PATCH", `/api/tasks/${long.id}`, { token, body: { status: "canceled" } });
    expect(await pool.finished(long.id)).toMatchObject({ status: "canceled" });
    expect(await pool.finished(next.id)).toMatchObject({ status: "success" });
  },
  patienceMs,
);

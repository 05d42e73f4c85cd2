/**
 * The driver against a real ComfyUI: `COMFYUI_URL=http://127.0.0.1:8188 bun run test:engines`. The engine needs one
 * checkpoint, whose weights do not matter, and should do nothing else meanwhile. `COMFYUI_SHARED_DIR`, its directory of
 * models, adds what is placed there.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import sharp from "sharp";
import { createComfyuiDriver } from "../../src/drivers/comfyui/index.ts";
import {
  type EngineJob,
  type EngineTarget,
  type InferenceJob,
  type InputFile,
  type ModelType,
  schedulers,
} from "../../src/drivers/driver.ts";
import { driverContract } from "../drivers/contract.ts";
import { follow, inferenceJob, inputFile, trainingJob } from "../drivers/jobs.ts";
import { engineTarget } from "../helpers/engine-target.ts";

/** A CPU takes tenths of a second for a step. */
const patienceMs = 300_000;
const heldSteps = { infer: 40, train: 12 };

const named = engineTarget("COMFYUI_URL", "http://127.0.0.1:8188");
if (named) suite({ ...named, sharedDir: process.env.COMFYUI_SHARED_DIR || undefined });

function suite(target: EngineTarget): void {
  const driver = createComfyuiDriver();
  const limit = () => AbortSignal.timeout(patienceMs);
  let checkpoint = "";
  let pictures: { image: InputFile; caption: string }[] = [];
  // A graph that has run before is not run again, and seeds are what tells ours apart.
  let seed = Math.floor(Math.random() * 1e6);

  beforeAll(async () => {
    const { checkpoints, models } = await driver.probe(target, limit());
    checkpoint = checkpoints["SD1.5"] ?? models.checkpoints[0] ?? "";
    if (!checkpoint) throw new Error("the engine has no checkpoint");
    pictures = await Promise.all(
      ["red", "green", "blue"].map(async (caption) => ({
        caption: `a ${caption} square`,
        image: await square(caption),
      })),
    );
  });

  const picture = (changes: Partial<InferenceJob> = {}) => inferenceJob({ checkpoint, seed: seed++, ...changes });
  const training = (steps = 4) => trainingJob({ checkpoint, pictures, seed: seed++, steps });

  async function run(job: EngineJob) {
    const handle = driver.prepare(crypto.randomUUID(), job);
    await driver.start(target, handle, job, limit());
    const events = await follow(driver, target, handle, limit());
    const artifact = events.find((event) => event.type === "artifact")?.artifact;
    const content = artifact && (await new Response(await driver.fetch(target, artifact, limit())).bytes());
    expect(events.at(-1)).toEqual({ type: "finished" });
    return { events, content: content ?? new Uint8Array() };
  }
  const pixels = async (job: InferenceJob) =>
    sharp((await run(job)).content)
      .raw()
      .toBuffer();

  for (const kind of ["infer", "train"] as const) {
    driverContract(`a real ComfyUI (${kind})`, async () => {
      let steps = 4;
      /** The engine's queue: [number, id, …] of what runs, and of what waits. */
      const queued = async (list: "queue_running" | "queue_pending", runId: string) => {
        const authorization = `Basic ${btoa(`${target.username}:${target.password ?? ""}`)}`;
        const address = `${target.tls ? "https" : "http"}://${target.host}:${target.port}`;
        const ask = async (path: string) =>
          (await fetch(`${address}${path}`, { headers: target.username ? { authorization } : {} })).json();
        const queue = (await ask("/queue")) as Record<string, [number, string][]>;
        const items = (queue[list] ?? []).filter(([, id]) => id === runId).length;
        return { items, isPast: runId in ((await ask(`/history/${runId}`)) as object) };
      };
      return {
        target,
        patienceMs,
        createDriver: () => createComfyuiDriver(),
        createJob: () => (kind === "infer" ? picture({ steps }) : training(steps)),
        hold: () => {
          steps = heldSteps[kind];
        },
        release: () => {},
        running: async (runId) => {
          while ((await queued("queue_running", runId)).items === 0) await Bun.sleep(50);
        },
        submissions: async (runId) => {
          const running = await queued("queue_running", runId);
          const pending = await queued("queue_pending", runId);
          return running.items + pending.items || Number(running.isPast || pending.isPast);
        },
        stop: async () => {},
      };
    });
  }

  describe("a real ComfyUI", () => {
    test.each([...schedulers])("makes a picture by %s, step by step, with previews where it can", async (scheduler) => {
      const { events, content } = await run(picture({ scheduler }));
      expect(await sharp(content).metadata()).toMatchObject({ format: "png", width: 64, height: 64 });
      expect(events).toContainEqual({ type: "progress", phase: "steps", step: 4, total: 4 });
    });

    test.each([...schedulers])("changes a picture by %s, the less the weaker", async (scheduler) => {
      const image = await square("#c06030");
      const change = (strength: number, ours = seed) =>
        pixels(picture({ scheduler, seed: ours, from: { image, strength } }));
      const kept = await change(0);
      const [slightly, wholly] = [await change(0.25), await change(1)];
      expect(distance(kept, slightly)).toBeGreaterThan(0);
      expect(distance(kept, slightly)).toBeLessThan(distance(kept, wholly));
    });

    test("trains a LoRA whose weights then change the picture, the more the heavier", async () => {
      const { content } = await run(training());
      const file = inputFile(content, "safetensors");
      const paint = (weight: number) => pixels(picture({ seed: 7, model: model("lora", file, weight) }));
      const plain = await pixels(picture({ seed: 7 }));
      expect(distance(plain, await paint(0))).toBe(0);
      expect(distance(plain, await paint(1))).toBeGreaterThan(0);
      expect(distance(plain, await paint(4))).toBeGreaterThan(distance(plain, await paint(1)));
    });

    test.skipIf(!target.sharedDir)("applies an embedding that is placed in its shared_dir, weighted", async () => {
      const file = inputFile(embedding(), "safetensors");
      // What the user writes must not take the embedding out of the prompt's grammar.
      const paint = (weight: number) =>
        pixels(picture({ seed: 7, prompt: "a lighthouse (at night", model: model("ti", file, weight) }));
      const plain = await pixels(picture({ seed: 7, prompt: "a lighthouse (at night" }));
      const [light, heavy] = [await paint(1), await paint(1.8)];
      expect(distance(plain, light)).toBeGreaterThan(0);
      expect(distance(light, heavy)).toBeGreaterThan(0);
    });
  });
}

const model = (type: ModelType, file: InputFile, weight: number) => ({ type, file, weight, triggerWords: "" });

async function square(background: string): Promise<InputFile> {
  const canvas = sharp({ create: { width: 96, height: 64, channels: 3, background } });
  return inputFile(await canvas.png().toBuffer());
}

/** Mean difference of two pictures' bytes. */
function distance(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((sum, byte, index) => sum + Math.abs(byte - (b[index] ?? 0)), 0) / a.length;
}

/** Two vectors for SD 1.5's text encoder, as kohya saves them. */
function embedding(): Uint8Array {
  const values = Float32Array.from({ length: 2 * 768 }, (_, index) => Math.sin(index) / 4);
  const data = new Uint8Array(values.buffer);
  const header = { emb_params: { dtype: "F32", shape: [2, 768], data_offsets: [0, data.length] } };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

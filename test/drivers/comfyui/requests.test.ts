import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createComfyuiDriver } from "../../../src/drivers/comfyui/index.ts";
import type {
  EngineError,
  EngineTarget,
  InferenceJob,
  InputFile,
  ModelType,
  TrainingJob,
} from "../../../src/drivers/driver.ts";
import { ComfyuiDouble, type DoubleOptions } from "../../helpers/comfyui-double.ts";
import { follow, inferenceJob, inputFile, trainingJob, typesOf } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createComfyuiDriver({ pace });
const signal = AbortSignal.timeout(60_000);
let engine: ComfyuiDouble;
const open = (options?: DoubleOptions) => {
  engine = new ComfyuiDouble(options);
  return engine;
};
afterEach(() => engine.stop());

async function start(job: InferenceJob | TrainingJob, changes: Partial<EngineTarget> = {}) {
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start({ ...engine.target, ...changes }, handle, job, signal);
  return handle;
}

const using = (type: ModelType, file: InputFile, weight = 1) => ({ type, file, weight, triggerWords: "" });

/** The graph that was submitted, by class of node. */
function graph(): Record<string, Record<string, unknown>> {
  const nodes = Object.values(engine.submitted.at(-1)?.graph ?? {});
  return Object.fromEntries(nodes.map(({ class_type, inputs }) => [class_type, inputs]));
}

/** The prompts of the graph that was submitted. */
const texts = () => Object.values(engine.submitted.at(-1)?.graph ?? {}).flatMap(({ inputs }) => inputs.text ?? []);

const refusal = (job: InferenceJob | TrainingJob): Promise<EngineError> =>
  start(job).then(
    () => {
      throw new Error("was accepted");
    },
    (error) => error,
  );

describe("what the engine is asked for", () => {
  test("a picture from a text", async () => {
    open();
    const handle = await start(inferenceJob());
    expect(graph().KSampler).toMatchObject({ seed: 7, steps: 4, cfg: 7, sampler_name: "euler", denoise: 1 });
    expect(graph().EmptyLatentImage).toEqual({ width: 64, height: 64, batch_size: 1 });
    expect(graph().SaveImage).toMatchObject({ filename_prefix: `atelier/${handle.runId}/image` });
    expect(engine.submitted[0]).toMatchObject({ id: handle.runId, clientId: `atelier-${handle.runId}` });
  });

  test("a picture from a picture, brought to the wanted size first", async () => {
    open();
    const image = inputFile("the picture to start from");
    await start(inferenceJob({ from: { image, strength: 0.6 } }));
    expect(graph().LoadImage).toEqual({ image: `atelier/${image.hash}.png` });
    expect(graph().ImageScale).toMatchObject({ width: 64, height: 64 });
    expect(graph().KSampler).toMatchObject({ denoise: 0.6 });
    expect(graph().EmptyLatentImage).toBeUndefined();
    expect(engine.files.get(`input/atelier/${image.hash}.png`)).toEqual(
      new TextEncoder().encode("the picture to start from"),
    );
  });

  test("a LoRA of ours is brought once and applied with its weight", async () => {
    open();
    const file = inputFile("weights", "safetensors");
    const model = { type: "lora" as const, file, weight: 0.8, triggerWords: "lh" };
    await start(inferenceJob({ model }));
    await start(inferenceJob({ model }));
    const lora_name = `atelier/${file.hash}.safetensors`;
    expect(graph().LoraLoader).toMatchObject({ lora_name, strength_model: 0.8, strength_clip: 0.8 });
    expect(graph().KSampler).toMatchObject({ model: ["10", 0] });
    expect(engine.requests.filter(({ line }) => line === "POST /upload/image")).toHaveLength(1);
  });

  test("a LoRA that was cut off while the engine stored it is brought again", async () => {
    open();
    const file = inputFile("weights", "safetensors");
    engine.files.set(`output/loras/atelier/${file.hash}.safetensors`, new Uint8Array(2));
    await start(inferenceJob({ model: using("lora", file) }));
    expect(engine.files.get(`output/loras/atelier/${file.hash}.safetensors`)?.length).toBe(file.size);
  });

  test("a checkpoint of ours takes the place of the base", async () => {
    open();
    const file = inputFile("a whole model", "safetensors");
    await start(inferenceJob({ model: using("ckp", file) }));
    expect(graph().CheckpointLoaderSimple).toEqual({ ckpt_name: `atelier/${file.hash}.safetensors` });
  });

  test("an embedding and a hypernetwork are placed in the shared_dir once, and applied with their weights", async () => {
    const sharedDir = await mkdtemp(join(tmpdir(), "atelier-models-"));
    open({ modelsDir: sharedDir });
    const ti = inputFile("embedding", "pt");
    const hyper = inputFile("network", "pt");
    for (const _ of "12") {
      await start(inferenceJob({ prompt: "a (dark", model: using("ti", ti, 0.9) }), { sharedDir });
      // First, for after an open parenthesis the engine would take it for mere text.
      expect(texts()).toContain(`(embedding:atelier/${ti.hash}:0.9), a (dark`);
      await start(inferenceJob({ model: using("hyper", hyper, 0.5) }), { sharedDir });
      const hypernetwork_name = `atelier/${hyper.hash}.pt`;
      expect(graph().HypernetworkLoader).toMatchObject({ hypernetwork_name, strength: 0.5 });
    }
    expect(await readFile(join(sharedDir, `embeddings/atelier/${ti.hash}.pt`), "utf8")).toBe("embedding");
    await rm(sharedDir, { recursive: true });
  });

  test("what lies on the engine under its hash is applied also without access to the host", async () => {
    const modelsDir = await mkdtemp(join(tmpdir(), "atelier-models-"));
    const ti = inputFile("embedding", "pt");
    await mkdir(join(modelsDir, "embeddings/by-hand"), { recursive: true });
    await writeFile(join(modelsDir, `embeddings/by-hand/${ti.hash}.pt`), "embedding");
    open({ modelsDir });
    await start(inferenceJob({ model: using("ti", ti) }));
    expect(texts()).toContain(`(embedding:by-hand/${ti.hash}:1), a lighthouse`);
    await rm(modelsDir, { recursive: true });
  });

  test("what is too large to be sent goes through the shared_dir", async () => {
    const sharedDir = await mkdtemp(join(tmpdir(), "atelier-models-"));
    open({ modelsDir: sharedDir });
    engine.maxUploadBytes = 10;
    const file = inputFile("a whole model", "safetensors");
    await start(inferenceJob({ model: using("ckp", file) }), { sharedDir });
    expect(graph().CheckpointLoaderSimple).toEqual({ ckpt_name: `atelier/${file.hash}.safetensors` });
    // The run itself may have stored its picture by now.
    expect([...engine.files.keys()].filter((path) => path.includes("checkpoints"))).toEqual([]);
    await rm(sharedDir, { recursive: true });
  });

  test("an embedding that the owner of the engine has put there may be named in a prompt", async () => {
    const modelsDir = await mkdtemp(join(tmpdir(), "atelier-models-"));
    await mkdir(join(modelsDir, "embeddings"));
    await writeFile(join(modelsDir, "embeddings/easynegative.safetensors"), "");
    open({ modelsDir });
    await start(inferenceJob({ negativePrompt: "(embedding:easynegative:1.2), embedding:easynegative.safetensors" }));
    expect(engine.submitted).toHaveLength(1);
    await rm(modelsDir, { recursive: true });
  });

  test.each(["A", "C"] as const)("a LoRA is trained with the nodes of generation %s", async (generation) => {
    open({ generation });
    const handle = await start(trainingJob());
    const { runId } = handle;
    const names = [...engine.files.keys()].filter((name) => name.startsWith("input/")).sort();
    const expected = ["0001.png", "0001.txt", "0002.png", "0002.txt"].map((name) => `input/${runId}/${name}`);
    expect(names).toEqual(expected);
    expect(engine.files.get(`input/${runId}/0002.txt`)).toEqual(new TextEncoder().encode("green"));
    const trainer = graph().TrainLoraNode;
    expect(trainer).toMatchObject({ steps: 6, learning_rate: 1e-4, rank: 4, seed: 7, grad_accumulation_steps: 1 });
    expect(trainer).toMatchObject({ existing_lora: "[None]", optimizer: "AdamW" });
    const save = graph()[generation === "A" ? "SaveLoRANode" : "SaveLoRA"];
    expect(save).toEqual({ lora: ["5", generation === "A" ? 1 : 0], prefix: `loras/${runId}/model` });
    const artifact = (await follow(driver, engine.target, handle)).find((event) => event.type === "artifact")?.artifact;
    expect(artifact).toEqual({
      role: "model",
      contentType: "application/octet-stream",
      locator: { filename: "model_00001_.safetensors", subfolder: `loras/${runId}`, type: "output" },
    });
  });

  test("a large file arrives whole, its length announced before it", async () => {
    open();
    const piece = new Uint8Array(1024 * 1024).fill(7);
    const pieces = 12;
    const stream = async () => {
      let left = pieces;
      return new ReadableStream<Uint8Array>({
        pull: (controller) => (left-- > 0 ? controller.enqueue(piece) : controller.close()),
      });
    };
    const file = { hash: "ab".repeat(32), size: pieces * piece.length, extension: "safetensors", stream };
    await start(inferenceJob({ model: using("lora", file) }));
    const stored = engine.files.get(`output/loras/atelier/${file.hash}.safetensors`);
    expect(stored?.length).toBe(file.size);
    expect(stored?.every((byte) => byte === 7)).toBe(true);
    const { headers } = engine.requests.find(({ line }) => line === "POST /upload/image") ?? {};
    expect(Number(headers?.get("content-length"))).toBeGreaterThan(file.size);
  });
});

describe("what is refused", () => {
  const others = join(tmpdir(), `atelier-models-${crypto.randomUUID()}`);
  beforeAll(async () => {
    await mkdir(join(others, "embeddings/atelier"), { recursive: true });
    await writeFile(join(others, `embeddings/atelier/${"ab".repeat(32)}.pt`), "");
  });
  afterAll(() => rm(others, { recursive: true }));

  test.each([
    { what: "too wide a picture", job: inferenceJob({ width: 20_000 }), says: "width must be between 16 and 16384" },
    { what: "an uneven size", job: inferenceJob({ height: 100 }), says: "height must be a multiple of 8" },
    { what: "too many steps", job: inferenceJob({ steps: 10_001 }), says: "steps must be between 1 and 10000" },
    { what: "too high a rank", job: trainingJob({ rank: 129 }), says: "rank must be between 1 and 128" },
    { what: "a learning rate of 2", job: trainingJob({ learningRate: 2 }), says: "learning rate must be" },
    { what: "training an embedding", job: trainingJob({ type: "ti" }), says: "trains no model of the type ti" },
    {
      what: "an empty caption",
      job: trainingJob({ pictures: [{ image: inputFile("p"), caption: " " }] }),
      says: "caption",
    },
    {
      what: "more even steps than there are noise levels",
      job: inferenceJob({ scheduler: "DDIM", steps: 30, from: { image: inputFile("x"), strength: 0.02 } }),
      says: "DDIM takes at most 20 steps with a strength of 0.02",
    },
    { what: "an embedding without a name", job: inferenceJob({ prompt: "a (embedding: b)" }), says: "without a name" },
    {
      what: "a picture of another format",
      job: inferenceJob({ from: { image: inputFile("x", "heic"), strength: 0.5 } }),
      says: "no pictures of the type heic",
    },
  ])("$what: bad-input", async ({ job, says }) => {
    open();
    const error = await refusal(job);
    expect(error).toMatchObject({ errorClass: "bad-input", isRetryable: false });
    expect(error.message).toContain(says);
    expect(engine.submitted).toEqual([]);
  });

  test.each([
    { what: "its checkpoint", job: inferenceJob({ checkpoint: "other.safetensors" }) },
    { what: "the checkpoint to train on", job: trainingJob({ checkpoint: "other.safetensors" }) },
    {
      what: "an embedding, which cannot be sent",
      job: inferenceJob({ model: using("ti", inputFile("e", "pt")) }),
    },
    { what: "an embedding that the prompt names", job: inferenceJob({ negativePrompt: "fog, embedding:blur" }) },
    {
      what: "an embedding that is another's, for which no name is one",
      job: inferenceJob({ prompt: `embedding:atelier/${"ab".repeat(32)}` }),
    },
    {
      what: "a LoRA too large to be sent",
      job: inferenceJob({
        model: { type: "lora", file: inputFile("x".repeat(9e5), "safetensors"), weight: 1, triggerWords: "" },
      }),
    },
  ])("a job for which the server lacks $what: model-missing", async ({ job }) => {
    open({ modelsDir: others });
    engine.maxUploadBytes = 500_000;
    expect(await refusal(job)).toMatchObject({ errorClass: "model-missing", isRetryable: true });
    expect(engine.submitted).toEqual([]);
  });

  test("a proxy that takes less than the engine says (413): a picture is bad input", async () => {
    open();
    engine.intercept = (_, url) => (url.pathname === "/upload/image" ? new Response(null, { status: 413 }) : undefined);
    expect(await refusal(trainingJob())).toMatchObject({ errorClass: "bad-input" });
  });

  test("a checkpoint that vanishes between asking and submitting: model-missing, without its name on the host", async () => {
    open();
    engine.intercept = (_, url) => {
      if (url.pathname === "/prompt") engine.checkpoints.length = 0;
      return undefined;
    };
    const error = await refusal(inferenceJob());
    expect(error).toMatchObject({ errorClass: "model-missing", message: "The job's checkpoint is not on this server" });
  });

  test("a graph accepted only in part is taken back", async () => {
    open();
    engine.held = "queue";
    engine.nodeErrors = {
      "7": { class_type: "SaveImage", errors: [{ type: "exception_during_validation", message: "no" }] },
    };
    const job = inferenceJob();
    const handle = driver.prepare(crypto.randomUUID(), job);
    const error = await driver.start(engine.target, handle, job, signal).catch((error) => error);
    expect(error).toMatchObject({ errorClass: "bad-input" });
    expect(typesOf(await follow(driver, engine.target, handle))).toEqual(["lost"]);
  });

  test("an input file that cannot be read is our fault, not the engine's", async () => {
    open();
    const image = inputFile("picture");
    const fault = new Error("storage is away");
    image.stream = () => Promise.reject(fault);
    expect((await refusal(inferenceJob({ from: { image, strength: 1 } }))) as Error).toBe(fault);
  });
});

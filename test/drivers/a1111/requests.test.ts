import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createA1111Driver } from "../../../src/drivers/a1111/index.ts";
import { writePrompts } from "../../../src/drivers/a1111/prompt.ts";
import type { EngineError, EngineJob, InferenceJob, ModelType, Scheduler } from "../../../src/drivers/driver.ts";
import { A1111Double, type A1111DoubleOptions } from "../../helpers/a1111-double.ts";
import { follow, inferenceJob, inputFile } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createA1111Driver({ pace });
const signal = AbortSignal.timeout(60_000);
const credentials = { username: "renée", password: "s3cret" };
let engine: A1111Double;
let directory = "";
const open = (options?: A1111DoubleOptions) => {
  engine = new A1111Double(options);
};
/** An engine whose host we can reach. */
const openShared = (options: A1111DoubleOptions = {}) => {
  directory = mkdtempSync(join(tmpdir(), "a1111-"));
  open({ ...options, directory });
};
afterEach(async () => {
  await engine?.stop();
  if (directory) rmSync(directory, { recursive: true });
  directory = "";
});

async function run(job: EngineJob) {
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  return (await follow(driver, engine.target, handle)).at(-1);
}
const sent = (path = "txt2img") => engine.sent(`POST /sdapi/v1/${path}`).at(-1) ?? {};
const refusal = (job: EngineJob): Promise<EngineError> =>
  run(job).then(
    () => {
      throw new Error("was accepted");
    },
    (error) => error,
  );
/** What a run dies of, before or after it has begun. */
const death = (job: EngineJob): Promise<EngineError> =>
  run(job).then(
    (event) => {
      if (event?.type !== "failed") throw new Error(`ended in ${event?.type}`);
      return event.error;
    },
    (error) => error,
  );
const weights = inputFile("weights", "safetensors");
const withModel = (type: ModelType, file = weights, prompt = "a lighthouse"): InferenceJob =>
  inferenceJob({ prompt, model: { type, file, weight: 0.8, triggerWords: "lh" } });

describe("what an engine says of itself", () => {
  test.each([
    { family: "A1111", apply: ["lora", "ckp", "hyper", "ti"], version: "A1111" },
    { family: "Forge", apply: ["lora", "ckp", "ti"], version: "Forge" },
    { family: "SD.Next", apply: ["lora", "ckp"], version: "SD.Next 2025-03-02" },
  ] as const)("$family with a shared_dir applies $apply", async ({ family, apply, version }) => {
    openShared({ family });
    const report = await driver.probe(engine.target, signal);
    expect(report).toMatchObject({
      engine: "a1111",
      version,
      queue: { running: 0, waiting: 0 },
      capabilities: { infer: true, apply, maxUploadBytes: null },
      checkpoints: { "SD1.5": "v1-5-pruned-emaonly.safetensors", SD2: "v2-1_768-ema-pruned.safetensors" },
      isModelLoaded: true,
    });
    expect(report.capabilities.schedulers).toHaveLength(6);
    expect(report.models).toEqual(await driver.listModels(engine.target, signal));
  });

  test("without a shared_dir it applies and trains nothing", async () => {
    open();
    const { capabilities } = await driver.probe(engine.target, signal);
    expect(capabilities).toMatchObject({ infer: true, apply: [], train: [] });
  });

  test("foreign work is seen", async () => {
    open();
    engine.isHeld = true;
    await engine.foreign("task(one)");
    await engine.foreign("task(two)");
    expect((await driver.probe(engine.target, signal)).queue).toEqual({ running: 1, waiting: 1 });
  });

  test("Basic auth goes with every request; wrong credentials are unauthorized and not named", async () => {
    open({ credentials });
    await driver.probe(engine.target, signal);
    for (const { headers } of engine.requests) expect(headers.get("authorization")).toStartWith("Basic ");
    const error = await driver.probe({ ...engine.target, password: "wr0ng" }, signal).catch((error) => error);
    expect(error).toMatchObject({ errorClass: "unauthorized" });
    expect(JSON.stringify(error) + error.message + error.stack).not.toContain("wr0ng");
  });

  test.each([
    { what: "a page", answer: () => new Response("<html>hello</html>") },
    { what: "another engine", answer: () => new Response(null, { status: 404 }) },
  ])("$what answers the probe: wrong-engine", async ({ answer }) => {
    open();
    engine.intercept = answer;
    expect(await driver.probe(engine.target, signal).catch((error) => error)).toMatchObject({
      errorClass: "wrong-engine",
    });
  });
});

describe("what the engine is asked for", () => {
  test("a picture from a text", async () => {
    open();
    expect(await run(inferenceJob({ steps: 4 }))).toEqual({ type: "finished" });
    expect(sent()).toMatchObject({
      prompt: "a lighthouse",
      negative_prompt: "fog",
      seed: 7,
      steps: 4,
      cfg_scale: 7,
      width: 64,
      height: 64,
      sampler_name: "Euler",
      scheduler: "Uniform",
      override_settings: { sd_model_checkpoint: "v1-5-pruned-emaonly.safetensors [6ce0161689]" },
      override_settings_restore_afterwards: false,
    });
    expect(sent().save_images).toBeUndefined();
  });

  test("a picture from a picture takes all of its steps", async () => {
    open();
    await run(inferenceJob({ from: { image: inputFile("the picture"), strength: 0.6 } }));
    expect(sent("img2img")).toMatchObject({
      init_images: [btoa("the picture")],
      denoising_strength: 0.6,
      resize_mode: 1,
      override_settings: { img2img_fix_steps: true },
    });
  });

  test.each<{ family: "A1111" | "SD.Next"; scheduler: Scheduler; name: string; schedule?: string }>([
    { family: "A1111", scheduler: "DPMSolverMultistep", name: "DPM++ 2M", schedule: "Uniform" },
    { family: "A1111", scheduler: "PNDM", name: "PLMS" },
    { family: "A1111", scheduler: "DDIM", name: "DDIM" },
    { family: "SD.Next", scheduler: "PNDM", name: "PNDM" },
    { family: "SD.Next", scheduler: "KLMS", name: "LMSD" },
  ])("$family calls $scheduler $name", async ({ family, scheduler, name, schedule }) => {
    open({ family });
    await run(inferenceJob({ scheduler }));
    expect(sent().sampler_name).toBe(name);
    expect(sent().scheduler).toBe(schedule);
  });

  test.each([
    { type: "lora", applied: `<lora:${weights.hash}:0.8> a lighthouse` },
    { type: "hyper", applied: `<hypernet:${weights.hash}:0.8> a lighthouse` },
    { type: "ti", applied: `(${weights.hash}:0.8), a lighthouse` },
  ] as const)(
    "a model of type $type is put into the shared_dir and applied in the prompt",
    async ({ type, applied }) => {
      openShared();
      const file = type === "lora" ? weights : { ...weights, extension: "pt" };
      expect(await run(withModel(type, file))).toEqual({ type: "finished" });
      expect(await run(withModel(type, file))).toEqual({ type: "finished" });
      expect(sent().prompt).toBe(applied);
    },
  );

  test("a checkpoint of ours takes the place of the base", async () => {
    openShared();
    expect(await run(withModel("ckp"))).toEqual({ type: "finished" });
    expect(sent().override_settings).toMatchObject({ sd_model_checkpoint: `atelier/${weights.hash}.safetensors` });
    expect(readdirSync(join(directory, "models/Stable-diffusion/atelier"))).toEqual([`${weights.hash}.safetensors`]);
  });
});

describe("what a prompt cannot reach", () => {
  test.each([
    { prompt: "cat <lora:secret:1>" },
    { prompt: "cat <<lora:a:1>lora:secret:1>" },
    { prompt: "cat <hypernet:secret:1>" },
    { prompt: "cat <\n# <\nlora:secret:1>" },
    { prompt: "a < b > c" },
  ])("$prompt applies no file", ({ prompt }) => {
    const job = inferenceJob({ prompt, negativePrompt: prompt });
    const { prompt: text, negative_prompt: negative } = writePrompts(job, null, []);
    expect(text).not.toMatch(/[<>#]/);
    expect(negative).not.toMatch(/[<>#]/);
  });

  test("an embedding that somebody else has put there cannot be named; the owner's of the engine can", async () => {
    openShared();
    const other = inputFile("somebody's", "pt");
    await run(withModel("ti", other));
    const named = [
      other.hash,
      other.hash.toUpperCase(),
      [...other.hash].join(" "),
      `(${other.hash.slice(0, 9)}\u200b${other.hash.slice(9)}:1.2)`,
    ];
    const before = engine.sent("POST /sdapi/v1/txt2img").length;
    for (const prompt of named) {
      expect(await refusal(inferenceJob({ prompt }))).toMatchObject({ errorClass: "bad-input" });
      expect(await refusal(inferenceJob({ negativePrompt: prompt }))).toMatchObject({ errorClass: "bad-input" });
    }
    expect(engine.sent("POST /sdapi/v1/txt2img")).toHaveLength(before);
    expect(await run(inferenceJob({ negativePrompt: "easynegative" }))).toEqual({ type: "finished" });
    expect(await run(withModel("ti", other, `a ${other.hash}`))).toEqual({ type: "finished" });
  });
});

describe("what is refused before it costs anything", () => {
  test.each([
    { what: "its checkpoint", job: inferenceJob({ checkpoint: "other.safetensors" }), errorClass: "model-missing" },
    { what: "a LoRA, with no way to put it there", job: withModel("lora"), errorClass: "model-missing" },
    {
      what: "a readable picture",
      job: inferenceJob({ from: { image: inputFile("x", "heic"), strength: 0.5 } }),
      errorClass: "bad-input",
    },
  ])("a job that lacks $what: $errorClass", async ({ job, errorClass }) => {
    open();
    expect(await refusal(job)).toMatchObject({ errorClass });
    expect(engine.sent("POST /sdapi/v1/txt2img")).toEqual([]);
  });

  test("a scheduler that the engine lacks", async () => {
    open();
    engine.samplers = ["Euler"];
    expect(await refusal(inferenceJob({ scheduler: "KLMS" }))).toMatchObject({ errorClass: "bad-input" });
    expect((await driver.probe(engine.target, signal)).capabilities.schedulers).toEqual(["K_EULER"]);
  });

  test("a model that the engine does not see where we put it", async () => {
    openShared();
    engine.intercept = (_, url) => (url.pathname.endsWith("refresh-loras") ? Response.json({}) : undefined);
    const error = await refusal(withModel("lora"));
    expect(error).toMatchObject({ errorClass: "model-missing" });
    expect(error.message).not.toContain(directory);
    expect(existsSync(join(directory, `models/Lora/atelier/${weights.hash}.safetensors`))).toBe(true);
  });
});

describe("what the engine puts in another's place without a word", () => {
  const meanwhile = (change: () => void) => {
    engine.intercept = (_, url) => {
      if (url.pathname === "/sdapi/v1/txt2img") change();
      return undefined;
    };
  };

  test("another checkpoint", async () => {
    open();
    const other = engine.checkpoints.at(-1) ?? "";
    meanwhile(() => engine.checkpoints.pop());
    expect(await death(inferenceJob({ checkpoint: other }))).toMatchObject({ errorClass: "model-missing" });
  });

  test("another sampler", async () => {
    open();
    meanwhile(() => engine.samplers.splice(2, 1));
    expect(await death(inferenceJob())).toMatchObject({ errorClass: "engine-failed" });
  });

  test("no embedding, since it does not fit the checkpoint", async () => {
    openShared();
    engine.skipsEmbeddings = true;
    expect(await death(withModel("ti", { ...weights, extension: "pt" }))).toMatchObject({
      errorClass: "model-missing",
    });
  });

  test("a smaller picture", async () => {
    open();
    expect(await refusal(inferenceJob({ width: 100 }))).toMatchObject({ errorClass: "bad-input" });
    expect(engine.sent("POST /sdapi/v1/txt2img")).toEqual([]);
  });

  test("no LoRA at all", async () => {
    openShared();
    meanwhile(() => {
      rmSync(join(directory, "models/Lora"), { recursive: true });
      engine.reread();
    });
    expect(await death(withModel("lora"))).toMatchObject({ errorClass: "model-missing" });
  });

  test.each([
    {
      status: 500,
      body: { error: "OutOfMemoryError", detail: "", errors: "CUDA out of memory." },
      is: "out-of-memory",
    },
    { status: 500, body: { error: "RuntimeError", errors: "cannot read /home/gpu/model.ckpt" }, is: "engine-failed" },
    { status: 422, body: { detail: [{ loc: ["body", "width"], msg: "too large" }] }, is: "bad-input" },
    { status: 404, body: { error: "HTTPException", detail: "Sampler not found", errors: "" }, is: "bad-input" },
  ])("an answer of $status: $is", async ({ status, body, is }) => {
    open();
    engine.failure = { status, body };
    const error = await death(inferenceJob());
    expect(error).toMatchObject({ errorClass: is });
    expect(error.message).not.toContain("/home");
  });
});

import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createA1111Driver } from "../../../src/drivers/a1111/index.ts";
import type { EngineError, EngineEvent, TrainingJob } from "../../../src/drivers/driver.ts";
import { A1111Double, type A1111DoubleOptions } from "../../helpers/a1111-double.ts";
import { follow, inputFile, trainingJob, typesOf } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createA1111Driver({ pace });
const signal = AbortSignal.timeout(60_000);
let engine: A1111Double;
let directory = "";
const open = (options: A1111DoubleOptions = {}) => {
  directory = mkdtempSync(join(tmpdir(), "a1111-"));
  engine = new A1111Double({ ...options, directory });
};
afterEach(async () => {
  await engine.stop();
  rmSync(directory, { recursive: true });
});

const embedding = (changes: Partial<TrainingJob> = {}) =>
  trainingJob({ type: "ti", triggerWords: "a cuckoo", ...changes });
async function begin(job: TrainingJob = embedding(), isHeld = false) {
  engine.isHeld = isHeld;
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  return handle;
}
const last = async (job?: TrainingJob): Promise<EngineEvent | undefined> => {
  try {
    return (await follow(driver, engine.target, await begin(job))).at(-1);
  } catch (error) {
    // A refusal may come before the start has returned.
    return { type: "failed", error: error as EngineError };
  }
};
const here = (path: string) => join(directory, path);

test.each([
  { type: "ti", path: "embedding", folder: "embeddings" },
  { type: "hyper", path: "hypernetwork", folder: "models/hypernetworks" },
] as const)("a model of type $type is trained on the job's checkpoint, pictures and captions", async (kind) => {
  open();
  let pictures: string[] = [];
  engine.intercept = (_, url) => {
    if (!url.pathname.includes("/train/")) return undefined;
    const [run = ""] = readdirSync(here("atelier"));
    pictures = readdirSync(here(`atelier/${run}/data`)).map(
      (name) => `${name}: ${readFileSync(here(`atelier/${run}/data/${name}`))}`,
    );
    return undefined;
  };
  const handle = await begin(trainingJob({ type: kind.type, checkpoint: "v2-1_768-ema-pruned.safetensors", steps: 6 }));
  const events = await follow(driver, engine.target, handle);
  expect(typesOf(events).at(-1)).toBe("finished");
  expect(pictures.sort()).toEqual(["0001.png: red", "0001.txt: red", "0002.png: green", "0002.txt: green"]);
  expect(engine.sent("POST /sdapi/v1/options")).toEqual([{ sd_model_checkpoint: "v2-1_768-ema-pruned.safetensors" }]);
  expect(engine.sent(`POST /sdapi/v1/train/${kind.path}`)).toMatchObject([
    {
      [`${kind.path}_name`]: `atelier-${handle.runId}`,
      learn_rate: "0.0001",
      batch_size: 1,
      steps: 6,
      training_width: 64,
      data_root: here(`atelier/${handle.runId}/data`),
    },
  ]);
  const artifact = events.find((event) => event.type === "artifact")?.artifact;
  if (!artifact) throw new Error("no artifact");
  expect(artifact).toMatchObject({ role: "model", extension: "pt" });
  const stream = await createA1111Driver({ pace }).fetch(engine.target, artifact, signal);
  expect(await new Response(stream).text()).toBe(`trained atelier-${handle.runId}`);
  // Nobody's prompt finds it, and the pictures are somebody's own.
  expect(readdirSync(here(kind.folder))).toEqual([]);
  expect(readdirSync(here(`atelier/${handle.runId}/data`))).toEqual([]);
});

test("an embedding starts from what the model knows of such a thing", async () => {
  open();
  await last();
  expect(engine.sent("POST /sdapi/v1/create/embedding")).toMatchObject([
    { init_text: "cuckoo", num_vectors_per_token: 4 },
  ]);
});

test("steps and loss come by polling", async () => {
  open();
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, await begin(embedding({ steps: 8 }), true), signal)) {
    events.push(event);
    if (event.type === "progress" && event.step === 4) engine.release();
  }
  expect(events).toContainEqual({ type: "progress", phase: "steps", step: 4, total: 8, loss: 0.25 });
});

test.each([
  { what: "an argument that it does not know", unexpected: ["use_weight", "preview_sampler_name"], missing: [] },
  { what: "one that it misses", unexpected: ["preview_sampler_name"], missing: ["preview_sampler_index"] },
])("a build that refuses $what is asked in its own way", async ({ unexpected, missing }) => {
  open();
  Object.assign(engine, { unexpected, missing });
  expect(await last()).toEqual({ type: "finished" });
});

test("a build that wants what nobody knows is not asked for ever", async () => {
  open();
  engine.missing = ["the_moon"];
  expect(await last()).toMatchObject({ type: "failed", error: { errorClass: "engine-failed" } });
});

test.each([
  { error: "CUDA out of memory. Tried to allocate 2.00 GiB", errorClass: "out-of-memory" },
  { error: "cannot identify image file '/home/gpu/webui/x.png'", errorClass: "engine-failed" },
])("a training that ends in $error: $errorClass, though the engine answers 200", async ({ error, errorClass }) => {
  open();
  engine.trainingError = error;
  const end = await last();
  expect(end).toMatchObject({ type: "failed", error: { errorClass } });
  expect(JSON.stringify(end)).not.toContain("/home");
});

test("what somebody interrupts on the engine is no model, though it leaves one", async () => {
  open();
  const handle = await begin(embedding(), true);
  await engine.until(() => engine.isRunning(handle.runId));
  await fetch(`http://127.0.0.1:${engine.target.port}/sdapi/v1/interrupt`, { method: "POST" });
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("canceled");
  expect(readdirSync(here("embeddings"))).toEqual([]);
});

test("another process cancels the training by its handle alone, and nobody's pictures", async () => {
  open();
  const handle = await begin(embedding(), true);
  await engine.until(() => engine.isRunning(handle.runId));
  const stranger = createA1111Driver({ pace });
  await stranger.cancel(engine.target, stranger.prepare(crypto.randomUUID(), embedding()), signal);
  expect(engine.sent("POST /sdapi/v1/interrupt")).toEqual([]);
  await stranger.cancel(engine.target, handle, signal);
  expect(typesOf(await follow(stranger, engine.target, handle)).at(-1)).toBe("canceled");
});

test("a training waits for the pictures that somebody else has under way", async () => {
  open();
  engine.isHeld = true;
  await engine.foreign();
  const handle = await begin(embedding(), true);
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type !== "queued") continue;
    expect(engine.submissions(handle.runId)).toBe(0);
    engine.release();
  }
  expect(typesOf(events)[0]).toBe("queued");
  expect(typesOf(events).at(-1)).toBe("finished");
});

test("a training that other work hides is not lost, and its model is found when our process has died", async () => {
  open();
  const handle = await begin(embedding(), true);
  await engine.until(() => engine.isRunning(handle.runId));
  engine.cut();
  let isOver = false;
  const story = follow(createA1111Driver({ pace }), engine.target, handle).finally(() => {
    isOver = true;
  });
  await engine.foreign();
  const looks = () => engine.requests.filter(({ line }) => line === "GET /sdapi/v1/progress").length;
  const before = looks();
  await engine.until(() => looks() > before + 10);
  expect(isOver).toBe(false);
  engine.release();
  expect(typesOf(await story).at(-1)).toBe("finished");
  expect(engine.submissions(handle.runId)).toBe(1);
});

test("an engine that restarts has lost the training", async () => {
  open();
  const handle = await begin(embedding(), true);
  await engine.until(() => engine.isRunning(handle.runId));
  await engine.restart();
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("lost");
});

test("what cannot be trained is refused before anything is brought", async () => {
  open();
  for (const job of [
    trainingJob({ type: "lora" }),
    embedding({ pictures: [{ image: inputFile("x", "heic"), caption: "x" }] }),
  ]) {
    expect(await begin(job).catch((error) => error)).toMatchObject({ errorClass: "bad-input" });
  }
  const { sharedDir: _, ...bare } = engine.target;
  const handle = driver.prepare(crypto.randomUUID(), embedding());
  const error = await driver.start(bare, handle, embedding(), signal).catch((error) => error);
  expect(error).toMatchObject({ errorClass: "model-missing" });
  expect(existsSync(here("atelier"))).toBe(false);
});

test.each([
  { family: "A1111", train: ["ti", "hyper"] },
  { family: "Forge", train: [] },
  { family: "SD.Next", train: [] },
] as const)("$family trains $train", async ({ family, train }) => {
  open({ family });
  expect((await driver.probe(engine.target, signal)).capabilities.train).toEqual([...train]);
});

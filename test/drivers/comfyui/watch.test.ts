import { afterEach, expect, test } from "bun:test";
import { createComfyuiDriver } from "../../../src/drivers/comfyui/index.ts";
import type { EngineEvent, EngineJob } from "../../../src/drivers/driver.ts";
import { ComfyuiDouble, type DoubleOptions } from "../../helpers/comfyui-double.ts";
import { follow, inferenceJob, trainingJob, typesOf } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createComfyuiDriver({ pace });
const signal = AbortSignal.timeout(60_000);
let engine: ComfyuiDouble;
afterEach(() => engine.stop());

async function begin(job: EngineJob = inferenceJob(), held: ComfyuiDouble["held"] = null) {
  engine.held = held;
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  return handle;
}
const open = (options?: DoubleOptions) => {
  engine = new ComfyuiDouble(options);
};

test("steps come over the socket, once each and in order", async () => {
  open();
  const handle = await begin(trainingJob({ steps: 6 }), "queue");
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type === "queued") {
      await engine.until(() => engine.connections === 1);
      engine.release();
    }
  }
  const steps = events.flatMap((event) => (event.type === "progress" && event.phase === "steps" ? [event.step] : []));
  expect(steps.at(-1)).toBe(6);
  expect(typesOf(events).slice(0, 2)).toEqual(["queued", "started"]);
  expect(events.filter((event) => event.type === "progress").at(-1)).toMatchObject({
    phase: "saving",
    step: 6,
    total: 6,
  });
});

test.each([
  { format: "with metadata", announces: true },
  { format: "without metadata", announces: false },
])("previews $format arrive, at most two a second", async ({ announces }) => {
  open();
  engine.ignoresFlags = !announces;
  engine.previews = 10;
  const handle = await begin(inferenceJob(), "queue");
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type !== "queued") continue;
    await engine.until(() => engine.connections === 1);
    engine.release();
  }
  const previews = events.filter((event) => event.type === "preview");
  expect(previews).toHaveLength(1);
  expect(previews[0]).toMatchObject({ bytes: new Uint8Array([1, 0]) });
});

test("a run is followed to its end though the socket says nothing at all", async () => {
  open();
  engine.isMute = true;
  const handle = await begin(inferenceJob(), "steps");
  const story = follow(driver, engine.target, handle);
  await engine.until(() => engine.connections === 1);
  engine.release();
  const types = typesOf(await story);
  expect(types.filter((type) => type !== "progress")).toEqual(["started", "artifact", "finished"]);
});

test("a run is followed to its end though no socket can be had", async () => {
  open();
  engine.intercept = (_, url) => (url.pathname === "/ws" ? new Response(null, { status: 403 }) : undefined);
  const handle = await begin();
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("finished");
});

test("where no steps can be seen the caller is told how long that may last", async () => {
  open();
  engine.intercept = (_, url) => (url.pathname === "/ws" ? new Response(null, { status: 403 }) : undefined);
  const handle = await begin(inferenceJob({ steps: 30 }), "steps");
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type !== "silent") continue;
    // The socket comes through at last.
    engine.intercept = null;
    if (event.forMs === 0) engine.release();
  }
  expect(events.filter((event) => event.type === "silent")).toEqual([
    { type: "silent", forMs: 300_000 },
    { type: "silent", forMs: 0 },
  ]);
  expect(typesOf(events).at(-1)).toBe("finished");
});

test.each([
  { generation: "A", told: [{ type: "silent", forMs: 360_000 }] },
  { generation: "C", told: [] },
] as const)("a trainer of generation $generation is known to be silent or not", async ({ generation, told }) => {
  open({ generation });
  const handle = await begin(trainingJob({ steps: 6 }), "steps");
  const story = follow(driver, engine.target, handle);
  // Once to start it, and once by the watcher, which goes on only when it knows.
  const asked = () => engine.requests.filter(({ line }) => line === "GET /object_info/TrainLoraNode").length;
  await engine.until(() => asked() === 2);
  engine.release();
  const events = await story;
  expect(events.filter((event) => event.type === "silent")).toEqual([...told]);
});

test("a dropped socket is replaced, and the steps go on", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  const story = follow(driver, engine.target, handle);
  await engine.until(() => engine.connections === 1);
  engine.dropSockets();
  await engine.until(() => engine.connections === 0);
  await engine.until(() => engine.connections === 1);
  engine.release();
  const events = await story;
  expect(events).toContainEqual({ type: "progress", phase: "steps", step: 4, total: 4 });
  expect(typesOf(events).at(-1)).toBe("finished");
});

test("a socket that the engine has forgotten is replaced when it stays silent", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  const story = follow(driver, engine.target, handle);
  await engine.until(() => engine.connections === 1);
  const connects = () => engine.requests.filter(({ line }) => line === "GET /ws").length;
  engine.loseClient(String(handle.clientId));
  await engine.until(() => connects() >= 2 && engine.connections === 1);
  engine.release();
  expect(await story).toContainEqual({ type: "progress", phase: "steps", step: 4, total: 4 });
});

test("a run that moves into the history between two looks is not lost", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  let raced = 0;
  engine.intercept = async (_, url) => {
    if (url.pathname !== `/history/${handle.runId}` || raced++ > 0) return;
    engine.release();
    await engine.until(() => !engine.isRunning(handle.runId));
    return Response.json({});
  };
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("finished");
});

test("an engine that restarts has lost the run, but nothing is said of it while it is away", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  const events: EngineEvent[] = [];
  let refused = 0;
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type !== "progress" || refused > 0) continue;
    engine.intercept = () => (refused++ < 20 ? new Response(null, { status: 502 }) : undefined);
    engine.forget();
  }
  expect(refused).toBeGreaterThan(20);
  expect(typesOf(events).filter((type) => type !== "progress")).toEqual(["started", "lost"]);
});

test("a waiting run that someone takes out of the queue is canceled, not lost", async () => {
  open();
  const handle = await begin(inferenceJob(), "queue");
  const stranger = createComfyuiDriver({ pace });
  const events: EngineEvent[] = [];
  let looks = 0;
  engine.intercept = (_, url) => {
    if (url.pathname === "/queue") looks++;
    return undefined;
  };
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type !== "queued") continue;
    await engine.until(() => engine.connections === 1);
    const before = looks;
    // The watcher has to have seen the run waiting while it was connected.
    await engine.until(() => looks > before + 2);
    await stranger.cancel(engine.target, handle, signal);
  }
  expect(typesOf(events)).toEqual(["queued", "canceled"]);
});

test("a model that was saved before the engine restarted is kept, a half one is not", async () => {
  open();
  const handle = await begin(trainingJob());
  const other = await begin(trainingJob());
  await follow(driver, engine.target, handle);
  await follow(driver, engine.target, other);
  const path = `output/loras/${other.runId}/model_00001_.safetensors`;
  engine.files.set(path, engine.files.get(path)?.slice(0, 100_000) ?? new Uint8Array());
  engine.forget();
  expect(typesOf(await follow(driver, engine.target, handle))).toEqual(["started", "artifact", "finished"]);
  expect(typesOf(await follow(driver, engine.target, other))).toEqual(["lost"]);
});

test.each([
  {
    type: "torch.OutOfMemoryError",
    says: "CUDA out of memory. Tried to allocate 2.00 GiB",
    errorClass: "out-of-memory",
    message: "The server ran out of memory",
  },
  {
    type: "RuntimeError",
    says: "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate",
    errorClass: "out-of-memory",
    message: "The server ran out of memory",
  },
  {
    type: "FileNotFoundError",
    says: "[Errno 2] No such file or directory: '/home/gpu/ComfyUI/models/x.pt'\nTraceback",
    errorClass: "engine-failed",
    message: "The engine failed in KSampler: [Errno 2] No such file or directory: '…'",
  },
  {
    type: "PIL.UnidentifiedImageError",
    says: "cannot identify image file '/home/gpu/ComfyUI/input/0001.png'",
    errorClass: "bad-input",
    message: "The engine cannot read one of the job's pictures",
  },
  {
    type: "ValueError",
    says: "cannot read C:\\Users\\gpu\\model.pt and/or 1/2 of it",
    errorClass: "engine-failed",
    message: "The engine failed in KSampler: cannot read … and/or 1/2 of it",
  },
])("$type in the midst of a run: $errorClass", async ({ type, says, errorClass, message }) => {
  open();
  engine.failure = { exception_type: type, exception_message: says };
  const handle = await begin();
  const last = (await follow(driver, engine.target, handle)).at(-1);
  expect(last).toMatchObject({ type: "failed", error: { errorClass, message } });
});

test("a trained model is found through a proxy that lets no HEAD pass", async () => {
  open();
  engine.intercept = (request) => (request.method === "HEAD" ? new Response(null, { status: 405 }) : undefined);
  const handle = await begin(trainingJob());
  expect(typesOf(await follow(driver, engine.target, handle)).slice(-2)).toEqual(["artifact", "finished"]);
});

test("an engine that reports success but has no model has failed", async () => {
  open();
  const handle = await begin(trainingJob());
  await follow(driver, engine.target, handle);
  engine.files.clear();
  expect((await follow(driver, engine.target, handle)).at(-1)).toMatchObject({ type: "failed" });
});

test.each(["A", "C"] as const)("canceling in generation %s never interrupts another's run", async (generation) => {
  open({ generation });
  const running = await begin(inferenceJob(), "steps");
  await engine.until(() => engine.isRunning(running.runId));
  const waiting = await begin(inferenceJob(), "steps");
  await driver.cancel(engine.target, waiting, signal);
  expect(engine.requests.map(({ line }) => line)).not.toContain("POST /interrupt");
  expect(engine.isRunning(running.runId)).toBe(true);
});

test("two processes may follow the same run at once, though they take the socket from each other", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  const stories = [0, 1].map(() => follow(createComfyuiDriver({ pace }), engine.target, handle));
  await engine.until(() => engine.connections === 2);
  engine.release();
  for (const events of await Promise.all(stories)) expect(typesOf(events).at(-1)).toBe("finished");
});

test("nothing stays open when the watching ends early", async () => {
  open();
  const handle = await begin(inferenceJob(), "steps");
  for await (const _ of driver.watch(engine.target, handle, signal)) {
    await engine.until(() => engine.connections === 1);
    break;
  }
  await engine.until(() => engine.connections === 0);
  await driver.listModels(engine.target, signal); // meanwhile what was under way arrives
  const before = engine.requests.length;
  await driver.listModels(engine.target, signal);
  expect(engine.requests.length).toBe(before + 4);
});

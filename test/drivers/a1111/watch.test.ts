import { afterEach, expect, test } from "bun:test";
import { createA1111Driver } from "../../../src/drivers/a1111/index.ts";
import type { EngineEvent, EngineHandle } from "../../../src/drivers/driver.ts";
import { A1111Double, type A1111DoubleOptions } from "../../helpers/a1111-double.ts";
import { follow, inferenceJob, typesOf } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createA1111Driver({ pace });
const signal = AbortSignal.timeout(60_000);
let engine: A1111Double;
const open = (options?: A1111DoubleOptions) => {
  engine = new A1111Double(options);
};
afterEach(() => engine.stop());

async function begin({ isHeld = true, by = driver } = {}) {
  engine.isHeld = isHeld;
  const job = inferenceJob();
  const handle = by.prepare(crypto.randomUUID(), job);
  await by.start(engine.target, handle, job, signal);
  return handle;
}

/** Watches from another process; `act` is called at the first event of that type, and the rest is told. */
async function followElsewhere(handle: EngineHandle, type: EngineEvent["type"], act: () => unknown) {
  const events: EngineEvent[] = [];
  for await (const event of createA1111Driver({ pace }).watch(engine.target, handle, signal)) {
    if (event.type === type && !typesOf(events).includes(type)) await act();
    events.push(event);
  }
  return events;
}
const interrupts = () => engine.sent("POST /sdapi/v1/interrupt").length;
const polls = () => engine.sent("POST /internal/progress").length;
const afterPolls = async (count: number) => {
  const before = polls();
  await engine.until(() => polls() >= before + count);
};

test("steps and previews come by polling, with the engine's own id of the run", async () => {
  open();
  engine.hasPreviews = true;
  const handle = await begin();
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type === "preview") engine.release();
  }
  expect(typesOf(events).at(0)).toBe("started");
  expect(events).toContainEqual({ type: "progress", phase: "steps", step: 2, total: 4 });
  expect(events.find((event) => event.type === "preview")).toMatchObject({ contentType: "image/png" });
  expect(typesOf(events).slice(-2)).toEqual(["artifact", "finished"]);
});

test("a run that waits behind another's says where, and starts when it is its turn", async () => {
  open();
  engine.isHeld = true;
  await engine.foreign();
  const handle = await begin();
  const events = await followElsewhere(handle, "queued", () => engine.release());
  expect(events[0]).toEqual({ type: "queued", position: 1 });
  expect(typesOf(events).at(-1)).toBe("lost");
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("finished");
});

test("a picture that is asked for again, after its end, is the same picture", async () => {
  open();
  const handle = await begin({ isHeld: false });
  const artifact = (events: EngineEvent[]) => events.find((event) => event.type === "artifact");
  const first = artifact(await follow(driver, engine.target, handle));
  expect(first).toBeDefined();
  expect(artifact(await follow(driver, engine.target, handle))).toEqual(first);
});

test("an engine that restarts has lost the run, for the process that asked and for any other", async () => {
  open();
  const handle = await begin();
  const [own, other] = await Promise.all([
    follow(driver, engine.target, handle),
    followElsewhere(handle, "started", () => engine.restart()),
  ]);
  expect(typesOf(own).at(-1)).toBe("lost");
  expect(typesOf(other).at(-1)).toBe("lost");
});

test("nothing is said of a run while the engine does not answer", async () => {
  open();
  const handle = await begin();
  let refused = 0;
  const events = await followElsewhere(handle, "started", () => {
    engine.intercept = () => (refused++ < 10 ? new Response(null, { status: 502 }) : undefined);
    engine.release();
  });
  expect(refused).toBeGreaterThan(10);
  expect(typesOf(events).at(-1)).toBe("lost");
});

test("when the connection breaks and the engine goes on, the run is neither lost nor given again before its end", async () => {
  open();
  const handle = await begin();
  engine.cut();
  let isOver = false;
  const story = follow(driver, engine.target, handle).finally(() => {
    isOver = true;
  });
  await afterPolls(10);
  await driver.start(engine.target, handle, inferenceJob(), signal);
  await createA1111Driver({ pace }).start(engine.target, handle, inferenceJob(), signal);
  expect(isOver).toBe(false);
  engine.release();
  expect((await story).at(-1)).toMatchObject({
    type: "failed",
    error: { errorClass: "engine-failed", isRetryable: true },
  });
  expect(engine.submissions(handle.runId)).toBe(1);
});

test("a run that broke while its process was dead is lost, though the engine goes on listing it as active", async () => {
  open();
  const handle = await begin();
  engine.failure = { status: 500, body: { error: "OutOfMemoryError", errors: "CUDA out of memory." } };
  const events = await followElsewhere(handle, "started", () => engine.release());
  expect(typesOf(events).at(-1)).toBe("lost");
  await createA1111Driver({ pace }).cancel(engine.target, handle, signal);
  expect(interrupts()).toBe(0);
});

test("a proxy that loses patience with the request does not end the run", async () => {
  open();
  engine.isHeld = true;
  engine.intercept = (body, url) => {
    if (url.pathname !== "/sdapi/v1/txt2img") return undefined;
    engine.intercept = null;
    void engine.submit(body);
    return new Response(null, { status: 504 });
  };
  const handle = await begin();
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(engine.target, handle, signal)) {
    events.push(event);
    if (event.type === "started") engine.release();
  }
  expect(events.at(-1)).toMatchObject({ type: "failed", error: { errorClass: "engine-failed" } });
});

test("what somebody else interrupts is not taken for a whole picture", async () => {
  open();
  const handle = await begin();
  await engine.until(() => engine.isRunning(handle.runId));
  await fetch(`http://127.0.0.1:${engine.target.port}/sdapi/v1/interrupt`, { method: "POST" });
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("canceled");
});

test("a whole picture counts, though the run behind it was interrupted before anybody asked", async () => {
  open();
  const first = await begin();
  const second = await begin();
  await driver.cancel(engine.target, second, signal);
  engine.intercept = async (_body, { pathname }) => {
    if (pathname !== "/sdapi/v1/progress" || engine.isRunning(first.runId)) return undefined;
    await engine.until(() => !engine.isWaiting(second.runId) && !engine.isRunning(second.runId));
    await fetch(`http://127.0.0.1:${engine.target.port}/sdapi/v1/interrupt`, { method: "POST" });
    return undefined;
  };
  engine.release();
  expect(typesOf(await follow(driver, engine.target, first)).at(-1)).toBe("finished");
  expect(typesOf(await follow(driver, engine.target, second)).at(-1)).toBe("canceled");
});

test("canceling a run that waits interrupts nobody else's, and then the run itself", async () => {
  open();
  engine.isHeld = true;
  await engine.foreign();
  const handle = await begin();
  await driver.cancel(engine.target, handle, signal);
  await afterPolls(5);
  expect(interrupts()).toBe(0);
  expect(engine.isRunning("somebody")).toBe(true);
  engine.finishForeign();
  await engine.until(() => interrupts() > 0);
  await engine.until(() => !engine.isRunning(handle.runId));
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("canceled");
});

test("another process cancels a running run by its handle alone", async () => {
  open();
  const handle = await begin();
  await engine.until(() => engine.isRunning(handle.runId));
  await createA1111Driver({ pace }).cancel(engine.target, handle, signal);
  expect(interrupts()).toBe(1);
  // The process that holds the run was told nothing, and sees it in what the engine says.
  expect(typesOf(await follow(driver, engine.target, handle)).at(-1)).toBe("canceled");
});

test("a run that is about to end is left to end: the interrupt might hit the one after it", async () => {
  open();
  engine.eta = 0.000_001;
  const handle = await begin();
  await engine.until(() => engine.isRunning(handle.runId));
  await driver.cancel(engine.target, handle, signal);
  expect(interrupts()).toBe(0);
  engine.eta = null;
  await engine.until(() => interrupts() > 0);
});

test("a build that lets nobody choose ids is followed by whether it works at all", async () => {
  open({ hasTaskIds: false });
  const impatient = createA1111Driver({ pace: { ...pace, acceptedMs: 20 } });
  const handle = await begin({ by: impatient });
  const elsewhere = followElsewhere(handle, "started", () => {});
  await afterPolls(10);
  await impatient.cancel(engine.target, handle, signal);
  // Nothing tells this run from other people's.
  expect(interrupts()).toBe(0);
  expect(typesOf(await follow(impatient, engine.target, handle)).at(-1)).toBe("canceled");
  engine.release();
  expect(typesOf(await elsewhere)).toEqual(["lost"]);
});

/**
 * Ends one run and nothing else. The engine's interrupt hits whatever is running, so it is sent only when our run has
 * just been seen to be that, and to go on for longer than the request takes. A waiting request cannot be taken back: it
 * is let in and interrupted then.
 */
import { setTimeout as wait } from "node:timers/promises";
import { EngineError } from "../driver.ts";
import { pause } from "../pause.ts";
import type { Progress } from "./answers.ts";
import type { Engine } from "./engine.ts";
import type { A1111Handle } from "./handle.ts";
import { findTask, getProgress, isIdle, isTraining, names } from "./state.ts";
import { markEnded, readTraces } from "./training-files.ts";

/** An end nearer than this many round trips may come before the interrupt does. */
const roundTrips = 5;
/** How long a waiting request is kept in view. */
const watchedMs = 60 * 60_000;

export async function cancelRun(engine: Engine, handle: A1111Handle, signal: AbortSignal): Promise<void> {
  engine.runs.cancel(handle.runId);
  if (handle.kind === "train") return cancelTraining(engine, handle, signal);
  const found = await interrupt(engine, handle, signal);
  if (found !== "gone" || isOpen(engine, handle)) void interruptLater(engine, handle);
}

const isOpen = ({ runs }: Engine, { runId }: A1111Handle) => runs.find(runId)?.outcome === null;

/**
 * Interrupts the run if it is at work.
 * @returns what was seen of it; "idle" when it is listed, but the engine does nothing: a run that broke stays listed
 */
async function interrupt({ client }: Engine, handle: A1111Handle, signal: AbortSignal) {
  const isResting = isIdle(await getProgress(client, signal));
  const askedAt = performance.now();
  const task = await findTask(client, handle.taskId, signal);
  const roundTripMs = performance.now() - askedAt;
  if (!task?.active && !task?.queued) return "gone";
  if (isResting) return "idle";
  const leftMs = task.eta == null || !task.progress ? Number.POSITIVE_INFINITY : task.eta * 1000;
  if (task.active && leftMs > roundTrips * roundTripMs) await client.post("/sdapi/v1/interrupt", {}, signal);
  return "busy";
}

/** Until the engine knows nothing of the run any more. Outlives the caller, and is harmless if the process ends. */
async function interruptLater(engine: Engine, handle: A1111Handle): Promise<void> {
  const until = Date.now() + watchedMs;
  let busyAt = Date.now();
  while (Date.now() < Math.min(until, busyAt + engine.pace.silentMs)) {
    await wait(engine.pace.firstMs, undefined, { ref: false });
    try {
      const found = await interrupt(engine, handle, AbortSignal.timeout(10_000));
      if (found === "gone" && !isOpen(engine, handle)) return;
      if (found !== "idle") busyAt = Date.now();
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      // An engine that is away for a while is asked again.
      busyAt = Date.now();
    }
  }
}

/** A training that waits for its turn sees by itself that it is not wanted; one that runs is told from others'. */
async function cancelTraining(engine: Engine, handle: A1111Handle, signal: AbortSignal): Promise<void> {
  const { client, files, runs, pace } = engine;
  const own = () => {
    const run = runs.find(handle.runId);
    return run?.isSubmitted && !run.outcome;
  };
  const isOurs = async (now: Progress) =>
    own() || names(now, handle) || (files !== null && (await readTraces(files, handle, false, signal)).isOpen);
  for (;;) {
    const now = await getProgress(client, signal);
    if (isTraining(now) && (await isOurs(now))) {
      await client.post("/sdapi/v1/interrupt", {}, signal);
      // Said again, it would hit the training that comes after.
      if (files) await markEnded(files, handle, signal);
      return;
    }
    // Between its checkpoint and its first step it is not to be seen yet.
    if (!own()) return;
    await pause(pace.firstMs, signal);
  }
}

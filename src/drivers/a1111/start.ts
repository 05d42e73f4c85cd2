/** Brings a job to the engine, once. */
import { EngineError, type EngineJob } from "../driver.ts";
import { pause } from "../pause.ts";
import type { Engine } from "./engine.ts";
import { generate, prepareGeneration } from "./generate.ts";
import type { A1111Handle } from "./handle.ts";
import type { OwnRun } from "./runs.ts";
import { findTask, isKnown } from "./state.ts";

export async function startRun(engine: Engine, handle: A1111Handle, job: EngineJob, signal: AbortSignal) {
  const { client, runs } = engine;
  if (runs.find(handle.runId)) return;
  if (job.kind === "train") throw new EngineError("bad-input", "This engine trains nothing");
  // Another process may have submitted it before it died.
  if (isKnown(await findTask(client, handle.taskId, signal))) return;
  const request = await prepareGeneration(engine, handle, job, signal);
  if (isKnown(await findTask(client, handle.taskId, signal))) return;
  const run = runs.begin(handle.runId, (run) => generate(client, request, run));
  await untilAccepted(engine, handle, run, signal);
}

/** The request stays open for as long as the work takes: what it is refused for comes at once, or the engine knows it. */
async function untilAccepted({ client, pace, runs }: Engine, handle: A1111Handle, run: OwnRun, signal: AbortSignal) {
  const until = Date.now() + pace.acceptedMs;
  do {
    const outcome = await Promise.race([run.ended, pause(pace.firstMs / 4, signal).then(() => null)]);
    if (outcome?.is === "failed") throw outcome.error;
    if (outcome && outcome.is !== "cut") return;
    const asked = findTask(client, handle.taskId, signal);
    // With the request still open, the engine's silence about it means nothing.
    const task = await (outcome ? asked : asked.catch(() => null));
    if (isKnown(task)) return;
    if (outcome) {
      runs.forget(handle.runId);
      throw new EngineError("unreachable", "The server does not answer");
    }
    signal.throwIfAborted();
  } while (Date.now() < until);
}

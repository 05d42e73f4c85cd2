/** Brings a job to the engine, once. */
import { EngineError, type EngineJob, type InferenceJob, type TrainingJob } from "../driver.ts";
import type { HostFiles } from "../host-files/index.ts";
import { pause } from "../pause.ts";
import type { Engine } from "./engine.ts";
import { generate, prepareGeneration } from "./generate.ts";
import type { A1111Handle } from "./handle.ts";
import { findCheckpoint } from "./models.ts";
import type { OwnRun } from "./runs.ts";
import { findTask, getProgress, isKnown, isTraining, names } from "./state.ts";
import { isFree, prepareTraining, train } from "./train.ts";
import { bringPictures, readTraces } from "./training-files.ts";

export async function startRun(engine: Engine, handle: A1111Handle, job: EngineJob, signal: AbortSignal) {
  if (engine.runs.find(handle.runId)) return;
  if (job.kind === "train") await startTraining(engine, handle, job, signal);
  else await startPicture(engine, handle, job, signal);
}

async function startPicture(engine: Engine, handle: A1111Handle, job: InferenceJob, signal: AbortSignal) {
  const { client, runs } = engine;
  // Another process may have submitted it before it died.
  if (isKnown(await findTask(client, handle.taskId, signal))) return;
  const request = await prepareGeneration(engine, handle, job, signal);
  if (isKnown(await findTask(client, handle.taskId, signal))) return;
  const run = runs.begin(handle.runId, (run) => generate(client, request, run));
  await untilAccepted(engine, handle, run, signal);
}

/** Resolves when the engine is at it, or when it waits in this process for its turn: the engine has no line for it. */
async function startTraining(engine: Engine, handle: A1111Handle, job: TrainingJob, signal: AbortSignal) {
  const { client, files, runs, pace } = engine;
  if (!handle.trains) throw new EngineError("bad-input", `This engine trains no model of the type ${job.type}`);
  if (!files) throw new EngineError("model-missing", "The pictures cannot be put there: the server has no shared_dir");
  if (await isUnderWay(engine, files, handle, signal)) return;
  const checkpoint = await findCheckpoint(client, job.checkpoint, signal);
  const request = await prepareTraining(client, handle, job, checkpoint, signal);
  await bringPictures(files, handle, job, signal);
  const run = runs.begin(handle.runId, (run) => train(engine, files, handle, request, run));
  const until = Date.now() + pace.acceptedMs;
  while (!run.outcome && Date.now() < until) {
    if (run.isSubmitted ? await isUnderWay(engine, files, handle, signal) : !(await isFree(client, signal))) return;
    await pause(pace.firstMs / 4, signal);
  }
  if (run.outcome?.is === "failed") throw run.outcome.error;
}

/** Also when it has ended: another process may have begun it before it died. */
async function isUnderWay({ client }: Engine, files: HostFiles, handle: A1111Handle, signal: AbortSignal) {
  const now = await getProgress(client, signal);
  return (isTraining(now) && names(now, handle)) || (await readTraces(files, handle, false, signal)).isBegun;
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

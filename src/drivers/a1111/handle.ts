/** The handle of a run: the engine's id of it, and for a training the name of what it makes. */
import { z } from "zod";
import type { EngineHandle, EngineJob } from "../driver.ts";

const schema = z.object({
  engine: z.literal("a1111"),
  runId: z.string(),
  /** What the engine calls a picture's run, where it lets us choose (from 1.8 on). */
  taskId: z.string(),
  kind: z.enum(["infer", "train"]),
  /** The type of the model to train, null for a picture. */
  trains: z.enum(["ti", "hyper"]).nullable(),
  /** What progress is counted against. */
  steps: z.number(),
});
export type A1111Handle = z.infer<typeof schema>;

export function prepareHandle(runId: string, job: EngineJob): EngineHandle {
  return {
    engine: "a1111",
    runId,
    taskId: `task(atelier-${runId})`,
    kind: job.kind,
    // Another type is refused by `start`, with a reason.
    trains: job.kind === "train" && (job.type === "ti" || job.type === "hyper") ? job.type : null,
    steps: job.steps,
  } satisfies A1111Handle;
}

/** @throws ZodError when the handle is not one of ours: a bug of the caller, not a fault of the engine */
export const parseHandle = (handle: EngineHandle): A1111Handle => schema.parse(handle);

/** The engine-side name of the model that a training makes. Nobody can guess it, and so nobody can prompt for it. */
export const trainedName = (handle: A1111Handle): string => `atelier-${handle.runId}`;

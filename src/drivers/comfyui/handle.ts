/** The handle of a run: everything that finds it again on its engine, chosen before anything is sent. */
import { z } from "zod";
import type { EngineHandle, EngineJob } from "../driver.ts";

const schema = z.object({
  engine: z.literal("comfyui"),
  runId: z.string(),
  /** The engine's id of the run. Newer builds insist on a lower-case UUID, which our run ids are. */
  promptId: z.string(),
  /** Events go to the client that the run was submitted for: the same for every process that watches it. */
  clientId: z.string(),
  kind: z.enum(["infer", "train"]),
  /** Where results are written: a path below the engine's output folder that no other run uses. */
  outputPrefix: z.string(),
  /** What progress is counted against. */
  steps: z.number(),
});
export type ComfyHandle = z.infer<typeof schema>;

export function prepareHandle(runId: string, job: EngineJob): EngineHandle {
  return {
    engine: "comfyui",
    runId,
    promptId: runId,
    clientId: `atelier-${runId}`,
    kind: job.kind,
    // Below `loras`, a trained model can be applied at once on the same engine.
    outputPrefix: job.kind === "train" ? `loras/${runId}/model` : `atelier/${runId}/image`,
    steps: job.steps,
  } satisfies ComfyHandle;
}

/** @throws ZodError when the handle is not one of ours: a bug of the caller, not a fault of the engine */
export const parseHandle = (handle: EngineHandle): ComfyHandle => schema.parse(handle);

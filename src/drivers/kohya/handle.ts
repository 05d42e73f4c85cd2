/** The handle of a run: the name of its folder on the host, and the run whose last state it goes on from. */
import { z } from "zod";
import type { EngineHandle, EngineJob } from "../driver.ts";

const schema = z.object({
  engine: z.literal("kohya"),
  /** Also the folder's name, hence the strictness. */
  runId: z.uuid().lowercase(),
  previousId: z.uuid().lowercase().nullable(),
  /** Of the whole training, those of the runs before included. */
  steps: z.int().positive(),
});
export type KohyaHandle = z.infer<typeof schema>;

export function prepareHandle(runId: string, job: EngineJob, previous?: EngineHandle): EngineHandle {
  const previousId = previous?.engine === "kohya" ? previous.runId : null;
  return { engine: "kohya", runId, previousId, steps: job.steps } satisfies KohyaHandle;
}

/** @throws ZodError when the handle is not one of ours: a bug of the caller, not a fault of the engine */
export const parseHandle = (handle: EngineHandle): KohyaHandle => schema.parse(handle);

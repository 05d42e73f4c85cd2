/**
 * The shapes of ComfyUI's answers, parsed once where they come in. Only what we read is named; the rest passes through,
 * because builds differ and custom nodes add to them.
 */
import { z } from "zod";

export const names = z.array(z.string());

export const systemStats = z.looseObject({
  system: z.looseObject({ comfyui_version: z.string() }),
  devices: z.array(
    z.looseObject({
      name: z.string(),
      type: z.string(),
      vram_total: z.number().nullish(),
      vram_free: z.number().nullish(),
    }),
  ),
});

export const features = z.looseObject({ max_upload_size: z.number().optional() });

/** `[number, prompt_id, graph, extra_data, outputs]`; a lower number runs earlier. */
const queueItem = z.tuple([z.number(), z.string()], z.unknown());
export const queue = z.looseObject({ queue_running: z.array(queueItem), queue_pending: z.array(queueItem) });

const file = z.object({ filename: z.string(), subfolder: z.string(), type: z.string() });
export type EngineFile = z.infer<typeof file>;

/** A custom node may report whatever it likes as its output: what is no list of files counts as none. */
const nodeOutput = z.looseObject({ images: z.array(file).optional().catch(undefined) }).catch({});

export const historyEntry = z.looseObject({
  outputs: z.record(z.string(), nodeOutput),
  status: z
    .looseObject({
      status_str: z.string(),
      messages: z.array(z.tuple([z.string(), z.record(z.string(), z.unknown())], z.unknown())),
    })
    .nullish(),
});
export type HistoryEntry = z.infer<typeof historyEntry>;

/** Keyed by run; empty for a run that is unknown or has not ended. */
export const history = z.record(z.string(), historyEntry);

const nodeError = z.looseObject({
  class_type: z.string().optional(),
  errors: z.array(
    z.looseObject({
      type: z.string(),
      message: z.string().default(""),
      details: z.string().default(""),
      extra_info: z.looseObject({ input_name: z.string().optional() }).nullish(),
    }),
  ),
});
/** Some builds answer an empty list instead of an empty object. */
const nodeErrors = z.union([
  z.record(z.string(), nodeError),
  z.array(z.unknown()).transform((): Record<string, z.infer<typeof nodeError>> => ({})),
]);
export type NodeErrors = z.infer<typeof nodeErrors>;

export const promptAccepted = z.looseObject({ prompt_id: z.string(), node_errors: nodeErrors.optional() });
export const promptRefused = z.looseObject({
  error: z.looseObject({ type: z.string(), message: z.string().default("") }),
  node_errors: nodeErrors.optional(),
});

export const uploaded = z.looseObject({ name: z.string(), subfolder: z.string() });

/** Of builds with `/api/jobs` only. */
export const jobCanceled = z.looseObject({ cancelled: z.boolean() });

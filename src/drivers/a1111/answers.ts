/**
 * The shapes of the engine's answers, parsed once where they come in. A1111, Forge and SD.Next agree in what is named
 * here and differ in the rest, which passes through.
 */
import { z } from "zod";

/** `GET /sdapi/v1/progress`: of whatever is running, not of one job. */
export const progress = z.looseObject({
  state: z.looseObject({
    /** Empty when idle. */
    job: z.string().nullish(),
    /** 0 when idle, -1 while a job is being prepared; images to make, or steps of a training. */
    job_count: z.number(),
    job_no: z.number(),
    /** Stays up after the job's end, until the next one begins. */
    interrupted: z.boolean().nullish(),
    /** When the latest job began, to the second; the answer of a picture's job repeats its own. */
    job_timestamp: z.string().nullish(),
  }),
  /** HTML; of a training the loss, the step and the last files. */
  textinfo: z.string().nullish(),
});
export type Progress = z.infer<typeof progress>;

/** `POST /internal/progress`: of the task whose id was given. */
export const taskProgress = z.looseObject({
  active: z.boolean(),
  queued: z.boolean(),
  /** The last 16 only. */
  completed: z.boolean(),
  progress: z.number().nullish(),
  /** Seconds. */
  eta: z.number().nullish(),
  live_preview: z.string().nullish(),
  id_live_preview: z.number().nullish(),
});
export type TaskProgress = z.infer<typeof taskProgress>;

export const pendingTasks = z.looseObject({ size: z.number() });

export const sdModels = z.array(
  z.looseObject({
    title: z.string(),
    model_name: z.string(),
    hash: z.string().nullish(),
    filename: z.string().nullish(),
  }),
);
export type SdModel = z.infer<typeof sdModels>[number];

export const named = z.array(z.looseObject({ name: z.string() }));
export const schedules = z.array(z.looseObject({ name: z.string(), label: z.string() }));
const embeddingMap = z.record(z.string(), z.unknown());
/** Skipped are those that do not fit the model which is loaded at the moment. */
export const embeddings = z.looseObject({ loaded: embeddingMap, skipped: embeddingMap.default({}) });

export const options = z.looseObject({
  sd_model_checkpoint: z.string().nullish(),
  img2img_fix_steps: z.boolean().nullish(),
  lora_add_hashes_to_infotext: z.boolean().nullish(),
});

export const flags = z.looseObject({ embeddings_dir: z.string().nullish() });

const bytes = z.looseObject({ free: z.number(), total: z.number() });
export const memory = z.looseObject({
  ram: bytes.nullish().catch(null),
  /** An `error` in its place where there is no CUDA. */
  cuda: z.looseObject({ system: bytes }).nullish().catch(null),
});

/** What made pictures come with; `info` is JSON once more. */
export const generated = z.looseObject({ images: z.array(z.string()), info: z.string() });
export const generationInfo = z.looseObject({
  sampler_name: z.string().nullish(),
  sd_model_name: z.string().nullish(),
  sd_model_hash: z.string().nullish(),
  /** Pictures before it are grids. */
  index_of_first_image: z.number().nullish(),
  extra_generation_params: z.record(z.string(), z.unknown()).nullish(),
  infotexts: z.array(z.string()).nullish(),
  job_timestamp: z.string().nullish(),
});
export type GenerationInfo = z.infer<typeof generationInfo>;

/** Creating and training answer 200 with a sentence, whatever happened. */
export const told = z.looseObject({ info: z.string() });

/** Of SD.Next alone. */
export const version = z.looseObject({ app: z.string().optional(), updated: z.string().optional() });

export const refused = z.looseObject({
  error: z.string().optional(),
  errors: z.unknown().optional(),
  detail: z.unknown().optional(),
});

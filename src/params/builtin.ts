/**
 * The parameter catalogue's built-in half: every field's type, limits, default, choices with their labels. Validators,
 * `/api/params` and the OpenAPI document read this one source; admins may change defaults and narrow limits.
 */

export interface Choice<V extends string = string> {
  value: V;
  label: { en: string; zh: string };
}

export interface Parameter {
  type: "integer" | "number" | "string" | "boolean" | "array";
  description: string;
  minimum?: number;
  maximum?: number;
  multipleOf?: number;
  maxLength?: number;
  maxItems?: number;
  default?: unknown;
  enum?: readonly Choice[];
}

const choice = <V extends string>(value: V, en: string, zh: string): Choice<V> => ({ value, label: { en, zh } });
const plain = <V extends string>(value: V): Choice<V> => choice(value, value, value);

export const statuses = [
  choice("initial", "Accepted", "初始化"),
  choice("ready", "Inputs ready", "就緒"),
  choice("waiting", "Waiting for a GPU", "等待中"),
  choice("running", "Running", "運行中"),
  choice("success", "Finished", "成功"),
  choice("error", "Failed", "異常"),
] as const;

const baseModel = {
  type: "string",
  description: "The base model that a model is trained on and a picture is made with",
  enum: [choice("SD1.5", "Stable Diffusion 1.5", "SD1.5"), choice("SD2", "Stable Diffusion 2", "SD2")],
  default: "SD1.5",
} as const satisfies Parameter;
const seed = {
  type: "integer",
  description: "Random seed; drawn and reported when left out",
  minimum: 0,
  maximum: 2_147_483_647,
} as const satisfies Parameter;
const work = [choice("train", "Training", "訓練"), choice("infer", "Inference", "推理")] as const;

export const builtin = {
  model: {
    type: {
      type: "string",
      description: "What kind of model is trained",
      enum: [
        choice("lora", "LoRA", "LoRA"),
        choice("ckp", "Checkpoint", "大模型"),
        choice("hyper", "Hypernetwork", "超網絡"),
        choice("ti", "Textual inversion", "文本反轉"),
      ],
      default: "lora",
    },
    base_model: baseModel,
    status: { type: "string", description: "How far the model's training is", enum: statuses },
    epochs: { type: "integer", description: "Training steps", minimum: 1, maximum: 100_000, default: 100 },
    resolution: {
      type: "integer",
      description: "Edge length in pixels that the training pictures are fitted to",
      minimum: 64,
      maximum: 2048,
      multipleOf: 8,
      default: 512,
    },
    learning_rate: {
      type: "number",
      description: "Learning rate of the optimiser",
      minimum: 0.0000001,
      maximum: 1,
      default: 0.0005,
    },
    rank: { type: "integer", description: "Rank of a LoRA's matrices", minimum: 1, maximum: 128, default: 8 },
    batch_size: { type: "integer", description: "Pictures per training step", minimum: 1, maximum: 64, default: 1 },
    seed,
  },
  image: {
    width: { type: "integer", description: "Pixels", minimum: 64, maximum: 2048, multipleOf: 8, default: 512 },
    height: { type: "integer", description: "Pixels", minimum: 64, maximum: 2048, multipleOf: 8, default: 512 },
    prompt: { type: "string", description: "What the picture shows", maxLength: 10_000 },
    negative_prompt: { type: "string", description: "What the picture must not show", maxLength: 10_000, default: "" },
    num_inference_steps: {
      type: "integer",
      description: "Number of inference steps",
      minimum: 1,
      maximum: 500,
      default: 20,
    },
    guidance_scale: {
      type: "number",
      description: "Scale for classifier-free guidance",
      minimum: 1,
      maximum: 20,
      default: 7,
    },
    scheduler: {
      type: "string",
      description: "The sampler",
      enum: (["DDIM", "K_EULER", "DPMSolverMultistep", "K_EULER_ANCESTRAL", "PNDM", "KLMS"] as const).map((v) =>
        plain(v),
      ),
      default: "K_EULER",
    },
    seed,
    strength: {
      type: "number",
      description: "Share of from_image that may change",
      minimum: 0,
      maximum: 1,
      default: 0.75,
    },
    base_model: baseModel,
    status: { type: "string", description: "How far the picture is", enum: statuses },
  },
  dataset: {
    images: { type: "array", description: "The pictures, as URLs", maxItems: 10_000, default: [] },
    info: { type: "string", description: "A description", maxLength: 10_000, default: "" },
    caption: { type: "string", description: "What one picture shows", maxLength: 2000 },
  },
  server: {
    type: { type: "string", description: "What the server is used for", enum: work },
    engine: {
      type: "string",
      description: "The program that runs there; recognised by probing when left out",
      enum: [plain("comfyui"), plain("a1111"), plain("kohya")],
    },
    port: { type: "integer", description: "TCP port", minimum: 1, maximum: 65_535 },
    slots: { type: "integer", description: "Tasks at the same time", minimum: 1, maximum: 64, default: 1 },
    status: {
      type: "string",
      description: "What the server is doing",
      enum: [
        choice("error", "Error", "異常"),
        choice("initial", "Not probed yet", "初始化"),
        choice("idle", "Idle", "閒置"),
        choice("ready", "Ready", "就緒"),
        choice("working", "Working", "工作中"),
        choice("closing", "Closing", "關閉中"),
      ],
    },
  },
  task: {
    type: { type: "string", description: "What the task does", enum: work },
    status: {
      type: "string",
      description: "How far the task is",
      enum: [...statuses, choice("canceled", "Canceled", "已取消")],
    },
    base_model: baseModel,
    count: { type: "integer", description: "Pictures to make", minimum: 1, maximum: 16, default: 1 },
    priority: { type: "integer", description: "Higher goes first", minimum: -100, maximum: 100, default: 0 },
    max_seconds: {
      type: "integer",
      description: "Seconds that the task may run on a server",
      minimum: 1,
      maximum: 604_800,
    },
  },
} as const satisfies Record<string, Record<string, Parameter>>;

export type EntryName = keyof typeof builtin;
export type FieldName<E extends EntryName> = keyof (typeof builtin)[E] & string;

/** The values that a parameter takes. */
type ValueOf<P> = P extends { enum: readonly Choice<infer V>[] }
  ? V
  : P extends { type: "integer" | "number" }
    ? number
    : P extends { type: "string" }
      ? string
      : P extends { type: "boolean" }
        ? boolean
        : unknown[];
export type ParameterValue<E extends EntryName, F extends FieldName<E>> = ValueOf<(typeof builtin)[E][F]>;

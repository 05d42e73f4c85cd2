/** Node descriptions as `/object_info` gives them, in both generations, for the stand-in. */

interface Settings {
  default?: unknown;
  min?: number;
  max?: number;
  step?: number;
  options?: readonly unknown[];
}
type Declared = [type: string | readonly unknown[], settings?: Settings];

export interface NodeDescription {
  input: { required: Record<string, Declared>; optional?: Record<string, Declared> };
  output: string[];
  output_node: boolean;
}

export type Generation = "A" | "C";

/** What the lists of files are read from. */
interface Shelf {
  hypernetworks: readonly string[];
  files: ReadonlyMap<string, unknown>;
  loras(): string[];
  listedCheckpoints(): string[];
}

const int = (fallback: number, min: number, max: number): Declared => ["INT", { default: fallback, min, max }];
const size: Declared = ["INT", { default: 512, min: 16, max: 16384, step: 8 }];
const float = (fallback: number, min: number, max: number): Declared => ["FLOAT", { default: fallback, min, max }];

export function objectInfo(generation: Generation, shelf: Shelf): Record<string, NodeDescription> {
  /** Lists of files change between requests, so they are read when they are asked for. */
  const choice = (list: () => readonly unknown[], settings: Settings = {}): Declared => {
    if (generation === "A") {
      const declared: Declared = [[], settings];
      Object.defineProperty(declared, 0, { get: list, enumerable: true });
      return declared;
    }
    return ["COMBO", Object.defineProperty({ ...settings }, "options", { get: list, enumerable: true })];
  };
  const of = (...options: unknown[]) => choice(() => options, { default: options[0] });
  const node = (
    required: Record<string, Declared>,
    output: string[],
    optional: Record<string, Declared> = {},
  ): NodeDescription => ({ input: { required, optional }, output, output_node: output.length === 0 });
  const folders = () =>
    [...shelf.files.keys()]
      .filter((name) => name.startsWith("input/"))
      .map((name) => name.split("/").slice(1, -1).join("/"));

  const always: Record<string, NodeDescription> = {
    CheckpointLoaderSimple: node(
      {
        ckpt_name: choice(() => shelf.listedCheckpoints()),
      },
      ["MODEL", "CLIP", "VAE"],
    ),
    CLIPTextEncode: node({ text: ["STRING", {}], clip: ["CLIP"] }, ["CONDITIONING"]),
    EmptyLatentImage: node({ width: size, height: size, batch_size: int(1, 1, 4096) }, ["LATENT"]),
    KSampler: node(
      {
        model: ["MODEL"],
        seed: int(0, 0, 2 ** 64),
        steps: int(20, 1, 10000),
        cfg: float(8, 0, 100),
        sampler_name: of("euler", "euler_ancestral", "lms", "dpmpp_2m", "ipndm", "ddim"),
        scheduler: of("normal", "karras", "ddim_uniform"),
        positive: ["CONDITIONING"],
        negative: ["CONDITIONING"],
        latent_image: ["LATENT"],
        denoise: float(1, 0, 1),
      },
      ["LATENT"],
    ),
    VAEDecode: node({ samples: ["LATENT"], vae: ["VAE"] }, ["IMAGE"]),
    VAEEncode: node({ pixels: ["IMAGE"], vae: ["VAE"] }, ["LATENT"]),
    SaveImage: node({ images: ["IMAGE"], filename_prefix: ["STRING", { default: "ComfyUI" }] }, []),
    LoadImage: node({ image: ["STRING", {}] }, ["IMAGE", "MASK"]),
    ImageScale: node(
      {
        image: ["IMAGE"],
        upscale_method: of("nearest-exact", "bilinear", "area", "bicubic", "lanczos"),
        width: int(512, 0, 16384),
        height: int(512, 0, 16384),
        crop: of("disabled", "center"),
      },
      ["IMAGE"],
    ),
    LoraLoader: node(
      {
        model: ["MODEL"],
        clip: ["CLIP"],
        lora_name: choice(() => shelf.loras()),
        strength_model: float(1, -100, 100),
        strength_clip: float(1, -100, 100),
      },
      ["MODEL", "CLIP"],
    ),
    HypernetworkLoader: node(
      { model: ["MODEL"], hypernetwork_name: choice(() => shelf.hypernetworks), strength: float(1, -10, 10) },
      ["MODEL"],
    ),
  };
  const trainer: Record<string, Declared> = {
    model: ["MODEL"],
    latents: ["LATENT"],
    positive: ["CONDITIONING"],
    batch_size: int(1, 1, 10000),
    grad_accumulation_steps: int(1, 1, 1024),
    steps: int(16, 1, 100000),
    learning_rate: float(5e-4, 1e-7, 1),
    rank: int(8, 1, 128),
    optimizer: of("AdamW", "Adam", "SGD", "RMSprop"),
    loss_function: of("MSE", "L1", "Huber", "SmoothL1"),
    seed: int(0, 0, 2 ** 64),
    training_dtype: of("bf16", "fp32"),
    lora_dtype: of("bf16", "fp32"),
    algorithm: of("LoRA", "LoHa", "LoKr", "OFT"),
    gradient_checkpointing: ["BOOLEAN", { default: true }],
    existing_lora: choice(() => [...shelf.loras(), "[None]"], { default: "[None]" }),
  };
  const steps: Record<string, Declared> = { steps: ["INT", {}] };
  const save = node({ lora: ["LORA_MODEL"], prefix: ["STRING", { default: "loras/ComfyUI_trained_lora" }] }, [], steps);
  if (generation === "A") {
    return {
      ...always,
      LoadImageTextSetFromFolderNode: node({ folder: choice(folders), clip: ["CLIP"] }, ["IMAGE", "CONDITIONING"], {
        resize_method: of("None", "Stretch", "Crop", "Pad"),
        width: int(-1, -1, 10000),
        height: int(-1, -1, 10000),
      }),
      TrainLoraNode: node(trainer, ["MODEL", "LORA_MODEL", "LOSS_MAP", "INT"]),
      SaveLoRANode: save,
    };
  }
  const later: Record<string, Declared> = {
    checkpoint_depth: int(1, 1, 5),
    offloading: ["BOOLEAN", { default: false }],
    bucket_mode: ["BOOLEAN", { default: false }],
    bypass_mode: ["BOOLEAN", { default: false }],
  };
  return {
    ...always,
    LoadImageTextDataSetFromFolder: node({ folder: choice(folders) }, ["IMAGE", "STRING"]),
    MakeTrainingDataset: node({ images: ["IMAGE"], vae: ["VAE"], clip: ["CLIP"] }, ["LATENT", "CONDITIONING"], {
      texts: ["STRING", {}],
    }),
    TrainLoraNode: node({ ...trainer, ...later }, ["LORA_MODEL", "LOSS_MAP", "INT"]),
    SaveLoRA: save,
  };
}

/** The core node classes that make pictures: loaders, encoders, the sampler, pictures in and out. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { draw, fill } from "./draw.ts";
import { type EngineFiles, type FileReference, type FileType, hashFile, writeWhole } from "./files.ts";
import { choice, decimal, integer, link, type NodeClass, type NodeResult, type NodeRun, text } from "./nodes.ts";
import {
  cropCenter,
  decodePicture,
  encodePng,
  maxPixels,
  type Picture,
  type ResizeMethod,
  resizeMethods,
  resizePicture,
} from "./picture.ts";
import { PythonError } from "./python.ts";
import { loadStyle } from "./style.ts";
import type { Conditioning, NodeInputs, ValueOf } from "./values.ts";

const samplers =
  `euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 dpm_2 dpm_2_ancestral lms dpm_fast
  dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu dpmpp_2m dpmpp_2m_cfg_pp
  dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm ipndm
  ipndm_v deis res_multistep res_multistep_cfg_pp res_multistep_ancestral res_multistep_ancestral_cfg_pp
  gradient_estimation gradient_estimation_cfg_pp er_sde seeds_2 seeds_3 sa_solver sa_solver_pece ddim uni_pc
  uni_pc_bh2`.split(/\s+/);
const schedulers = "simple sgm_uniform karras exponential ddim_uniform beta normal linear_quadratic kl_optimal".split(
  " ",
);

/** Seeds are 64 bits wide in ComfyUI; JSON numbers above 2^53 arrive rounded, which is as good as any seed. */
export const seedInput = integer(0, 0, 2 ** 64, { control_after_generate: true });
const strength = () => decimal(1, -100, 100, 0.01);
const loraName = choice((files) => files.listModels("loras") ?? []);

/** The size of latents: pictures are cut to multiples of it. */
const latentScale = 8;

const CheckpointLoaderSimple: NodeClass = {
  displayName: "Load Checkpoint",
  category: "loaders",
  required: { ckpt_name: choice((files) => files.listModels("checkpoints") ?? []) },
  outputs: [{ type: "MODEL" }, { type: "CLIP" }, { type: "VAE" }],
  run: (inputs) => {
    const checkpoint = inputs.text("ckpt_name");
    return {
      outputs: [
        { type: "MODEL", checkpoint, styles: [] },
        { type: "CLIP", checkpoint, clipSkip: 1, styles: [] },
        { type: "VAE", checkpoint },
      ],
    };
  },
};

const CLIPSetLastLayer: NodeClass = {
  displayName: "CLIP Set Last Layer",
  category: "conditioning",
  required: { clip: link("CLIP"), stop_at_clip_layer: integer(-1, -24, -1, { step: 1 }) },
  outputs: [{ type: "CLIP" }],
  run: (inputs) => ({
    outputs: [{ ...inputs.value("clip", "CLIP"), clipSkip: -inputs.number("stop_at_clip_layer") }],
  }),
};

const CLIPTextEncode: NodeClass = {
  displayName: "CLIP Text Encode (Prompt)",
  category: "conditioning",
  required: { text: text("", { multiline: true, dynamicPrompts: true }), clip: link("CLIP") },
  outputs: [{ type: "CONDITIONING" }],
  run: (inputs) => {
    const { clipSkip } = inputs.value("clip", "CLIP");
    return { outputs: [{ type: "CONDITIONING", conditionings: [{ text: inputs.text("text"), clipSkip }] }] };
  },
};

const EmptyLatentImage: NodeClass = {
  displayName: "Empty Latent Image",
  category: "latent",
  required: {
    width: integer(512, 16, 16384, { step: 8 }),
    height: integer(512, 16, 16384, { step: 8 }),
    batch_size: integer(1, 1, 4096),
  },
  outputs: [{ type: "LATENT" }],
  run: (inputs) => {
    const floor = (edge: number) => Math.floor(edge / latentScale) * latentScale;
    const [width, height] = [floor(inputs.number("width")), floor(inputs.number("height"))];
    return { outputs: [{ type: "LATENT", width, height, count: inputs.number("batch_size"), pictures: null }] };
  },
};

const KSampler: NodeClass = {
  displayName: "KSampler",
  category: "sampling",
  required: {
    model: link("MODEL"),
    seed: seedInput,
    steps: integer(20, 1, 10000),
    cfg: { type: "FLOAT", config: { default: 8, min: 0, max: 100, step: 0.1, round: 0.01 } },
    sampler_name: choice(samplers),
    scheduler: choice(schedulers),
    positive: link("CONDITIONING"),
    negative: link("CONDITIONING"),
    latent_image: link("LATENT"),
    denoise: decimal(1, 0, 1, 0.01),
  },
  outputs: [{ type: "LATENT" }],
  run: sample,
};

async function sample(inputs: NodeInputs, run: NodeRun): Promise<NodeResult> {
  const latent = inputs.value("latent_image", "LATENT");
  const { width, height, count } = latent;
  if (width * height * count > maxPixels) {
    throw new PythonError(
      "torch.OutOfMemoryError",
      "Allocation on device would exceed allowed memory. (out of memory)",
    );
  }
  const model = inputs.value("model", "MODEL");
  const positive = joinAll(inputs.value("positive", "CONDITIONING").conditionings);
  const negative = joinAll(inputs.value("negative", "CONDITIONING").conditionings);
  const steps = inputs.number("steps");
  const denoise = inputs.number("denoise");
  const pictures: Picture[] = [];
  for (let index = 0; index < count; index++) {
    const picture = await (run.isInstant ? fill : draw)(
      {
        checkpoint: model.checkpoint,
        prompt: positive.text,
        negativePrompt: negative.text,
        clipSkip: positive.clipSkip,
        seed: inputs.number("seed"),
        index,
        width,
        height,
        steps,
        cfg: inputs.number("cfg"),
        sampler: inputs.text("sampler_name"),
        scheduler: inputs.text("scheduler"),
        denoise,
        styles: model.styles,
        source: latent.pictures?.[index] ?? null,
      },
      async (step, preview) => {
        // A batch goes through the sampler as one: its bar moves once a step, whatever the number of pictures.
        const value = Math.floor((index * steps + step) / count);
        const previous = Math.floor((index * steps + step - 1) / count);
        if (value > previous) await run.step(value, steps, () => ({ picture: preview(), width, height }));
      },
    );
    pictures.push(picture);
  }
  return { outputs: [{ type: "LATENT", width, height, count, pictures }] };
}

/** Prompts that were combined read as one. */
function joinAll(conditionings: Conditioning[]): Conditioning {
  return {
    text: conditionings.map((conditioning) => conditioning.text).join("\n"),
    clipSkip: conditionings[0]?.clipSkip ?? 1,
  };
}

const VAEDecode: NodeClass = {
  displayName: "VAE Decode",
  category: "latent",
  required: { samples: link("LATENT"), vae: link("VAE") },
  outputs: [{ type: "IMAGE" }],
  run: (inputs) => {
    const { width, height, count, pictures } = inputs.value("samples", "LATENT");
    // An empty latent decodes to flat grey in ComfyUI as well.
    const grey = () => ({ width, height, data: new Uint8Array(width * height * 3).fill(127) });
    return { outputs: [{ type: "IMAGE", pictures: pictures ?? Array.from({ length: count }, grey) }] };
  },
};

const VAEEncode: NodeClass = {
  displayName: "VAE Encode",
  category: "latent",
  required: { pixels: link("IMAGE"), vae: link("VAE") },
  outputs: [{ type: "LATENT" }],
  run: (inputs) => ({ outputs: [encodeLatent(inputs.value("pixels", "IMAGE").pictures)] }),
};

/** Pictures as a latent: cut at the middle to multiples of eight. */
export function encodeLatent(pictures: Picture[]) {
  const cut = pictures.map((picture) => {
    const floor = (edge: number) => Math.max(latentScale, Math.floor(edge / latentScale) * latentScale);
    return cropCenter(picture, floor(picture.width), floor(picture.height));
  });
  const { width, height } = cut[0] ?? { width: 0, height: 0 };
  return { type: "LATENT" as const, width, height, count: cut.length, pictures: cut };
}

const LoadImage: NodeClass = {
  displayName: "Load Image",
  category: "image",
  required: { image: choice((files) => files.listInputs(), { image_upload: true }) },
  outputs: [{ type: "IMAGE" }, { type: "MASK" }],
  // Instead of the list: that names only files at the top of input/, this takes sub-folders and `[output]` too.
  validators: {
    image: (value, files) =>
      (typeof value === "string" && files.findAnnotated(value) !== null) || `Invalid image file: ${value}`,
  },
  changeKey: async (literals, files) => hashFile(findImage(literals.get("image"), files)),
  run: async (inputs, { files }) => ({
    outputs: [
      { type: "IMAGE", pictures: [await decodePicture(await readFile(findImage(inputs.text("image"), files)))] },
      { type: "MASK" },
    ],
  }),
};

function findImage(name: unknown, files: EngineFiles): string {
  const path = files.findAnnotated(String(name));
  if (path === null) throw new PythonError("FileNotFoundError", `[Errno 2] No such file or directory: '${name}'`);
  return path;
}

const ImageScale: NodeClass = {
  displayName: "Upscale Image",
  category: "image/upscaling",
  required: {
    image: link("IMAGE"),
    upscale_method: choice(resizeMethods),
    width: integer(512, 0, 16384, { step: 1 }),
    height: integer(512, 0, 16384, { step: 1 }),
    crop: choice(["disabled", "center"]),
  },
  outputs: [{ type: "IMAGE" }],
  run: async (inputs) => {
    const { pictures } = inputs.value("image", "IMAGE");
    const method = inputs.text("upscale_method") as ResizeMethod;
    const scaled = pictures.map((picture) => {
      let [width, height] = [inputs.number("width"), inputs.number("height")];
      // Zero keeps the shape; two zeros keep the picture.
      if (width === 0 && height === 0) return picture;
      if (width === 0) width = Math.max(1, Math.round((picture.width * height) / picture.height));
      if (height === 0) height = Math.max(1, Math.round((picture.height * width) / picture.width));
      return resizePicture(picture, width, height, inputs.text("crop") === "center" ? "crop" : "stretch", method);
    });
    return { outputs: [{ type: "IMAGE", pictures: await Promise.all(scaled) }] };
  },
};

const SaveImage: NodeClass = {
  displayName: "Save Image",
  category: "image",
  description: "Saves the input images to your ComfyUI output directory.",
  required: { images: link("IMAGE"), filename_prefix: text("ComfyUI") },
  outputs: [],
  isOutput: true,
  run: (inputs, run) => savePictures(inputs, run, "output", inputs.text("filename_prefix")),
};

const PreviewImage: NodeClass = {
  displayName: "Preview Image",
  category: "image",
  description: "Saves the input images to your ComfyUI output directory.",
  required: { images: link("IMAGE") },
  outputs: [],
  isOutput: true,
  run: (inputs, run) => savePictures(inputs, run, "temp", "ComfyUI_temp_demo"),
};

async function savePictures(
  inputs: NodeInputs,
  { files, saved }: NodeRun,
  type: FileType,
  prefix: string,
): Promise<NodeResult> {
  const { pictures } = inputs.value("images", "IMAGE");
  const slot = files.nextSlot(type, prefix, pictures[0]?.width, pictures[0]?.height);
  const images: FileReference[] = [];
  for (const [index, picture] of pictures.entries()) {
    const name = slot.name.replaceAll("%batch_num%", String(index));
    const filename = `${name}_${String(slot.counter + index).padStart(5, "0")}_.png`;
    await writeWhole(join(slot.directory, filename), saved(await encodePng(picture)));
    images.push({ filename, subfolder: slot.subfolder, type });
  }
  return { outputs: [], ui: { images } };
}

const LoraLoader: NodeClass = {
  displayName: "Load LoRA",
  category: "loaders",
  description: "LoRAs are used to modify diffusion and CLIP models.",
  required: {
    model: link("MODEL"),
    clip: link("CLIP"),
    lora_name: loraName,
    strength_model: strength(),
    strength_clip: strength(),
  },
  outputs: [{ type: "MODEL" }, { type: "CLIP" }],
  changeKey: loraChangeKey,
  run: async (inputs, { files }) => {
    const clip = inputs.value("clip", "CLIP");
    // Only the model's strength shows: there is no text encoder to change.
    return { outputs: [await applyLora(inputs, files), clip] };
  },
};

const LoraLoaderModelOnly: NodeClass = {
  displayName: "LoraLoaderModelOnly",
  category: "loaders",
  required: { model: link("MODEL"), lora_name: loraName, strength_model: strength() },
  outputs: [{ type: "MODEL" }],
  changeKey: loraChangeKey,
  run: async (inputs, { files }) => ({ outputs: [await applyLora(inputs, files)] }),
};

async function applyLora(inputs: NodeInputs, files: EngineFiles): Promise<ValueOf<"MODEL">> {
  const model = inputs.value("model", "MODEL");
  const strength = inputs.number("strength_model");
  // Without strength the file is not even looked at, as in ComfyUI.
  if (strength === 0) return model;
  const name = inputs.text("lora_name");
  const path = files.findModel("loras", name);
  if (path === null) {
    throw new PythonError("FileNotFoundError", `Model in folder 'loras' with filename '${name}' not found.`);
  }
  return { ...model, styles: [...model.styles, { style: await loadStyle(path), strength }] };
}

// ComfyUI goes by the name alone and keeps a replaced file's old weights; nobody could build on that.
async function loraChangeKey(literals: ReadonlyMap<string, unknown>, files: EngineFiles): Promise<string> {
  const path = files.findModel("loras", String(literals.get("lora_name")));
  return path === null ? "" : hashFile(path);
}

export const pictureNodes = {
  CheckpointLoaderSimple,
  CLIPSetLastLayer,
  CLIPTextEncode,
  EmptyLatentImage,
  KSampler,
  VAEDecode,
  VAEEncode,
  LoadImage,
  ImageScale,
  SaveImage,
  PreviewImage,
  LoraLoader,
  LoraLoaderModelOnly,
};

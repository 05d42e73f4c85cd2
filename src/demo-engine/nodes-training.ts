/** The node classes that train a LoRA, in the two shapes that ComfyUI has had: before and after its new schema. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { type EngineFiles, sha256, writeWhole } from "./files.ts";
import {
  choice,
  decimal,
  flag,
  type InputSpec,
  integer,
  link,
  type NodeClass,
  type NodeResult,
  type NodeRun,
  text,
} from "./nodes.ts";
import { apply, encodeLatent, seedInput } from "./nodes-picture.ts";
import { cropCenter, decodePicture, type Fit, type Picture, resizePicture } from "./picture.ts";
import { PythonError } from "./python.ts";
import { encodeSafetensors } from "./safetensors.ts";
import { loadStyle, styleFromFile, styleToFile, wordsOf } from "./style.ts";
import { train } from "./train.ts";
import type { NodeInputs, Value } from "./values.ts";

const pictureExtensions = new Set([".png", ".jpg", ".jpeg", ".webp"]);

interface CaptionedPicture {
  path: string;
  /** Null when there is no caption file. */
  caption: string | null;
}

/** Pictures of an input folder with their captions; folders named `<repeats>_<name>` repeat theirs. */
async function readDataset(files: EngineFiles, folder: string): Promise<CaptionedPicture[]> {
  const root = files.inputFolder(folder);
  if (!existsSync(root)) throw new PythonError("FileNotFoundError", `[Errno 2] No such file or directory: '${folder}'`);
  const isPicture = (name: string) => pictureExtensions.has(extname(name).toLowerCase());
  const paths: string[] = [];
  for (const entry of readdirSync(root).sort()) {
    const path = join(root, entry);
    if (isPicture(entry)) paths.push(path);
    if (!statSync(path).isDirectory()) continue;
    const repeats = /^(\d+)(?:_|$)/.exec(entry)?.[1];
    const inner = readdirSync(path)
      .sort()
      .filter(isPicture)
      .map((name) => join(path, name));
    for (let i = 0; i < Number(repeats ?? 1); i++) paths.push(...inner);
  }
  if (paths.length === 0) throw new PythonError("ValueError", "No valid images found in input");
  return Promise.all(
    paths.map(async (path) => {
      const captionPath = `${path.slice(0, path.length - extname(path).length)}.txt`;
      return { path, caption: existsSync(captionPath) ? (await readFile(captionPath, "utf8")).trim() : null };
    }),
  );
}

/** A folder's content may change under the same name. */
async function datasetChangeKey(literals: ReadonlyMap<string, unknown>, files: EngineFiles): Promise<string> {
  const root = files.inputFolder(String(literals.get("folder")));
  if (!existsSync(root)) return "";
  const names = readdirSync(root, { recursive: true, encoding: "utf8" }).sort();
  return names.map((name) => `${name} ${statSync(join(root, name)).mtimeMs}`).join("\n");
}

const LoadImageTextSetFromFolderNode: NodeClass = {
  displayName: "Load Image and Text Dataset from Folder",
  category: "loaders",
  module: "comfy_extras.nodes_train",
  description: "Loads a batch of images and caption from a directory for training.",
  required: { folder: choice((files) => files.listInputFolders("top")), clip: link("CLIP") },
  optional: {
    resize_method: choice(["None", "Stretch", "Crop", "Pad"], { default: "None" }),
    width: integer(-1, -1, 10000, { step: 1 }),
    height: integer(-1, -1, 10000, { step: 1 }),
  },
  outputs: [{ type: "IMAGE" }, { type: "CONDITIONING" }],
  isExperimental: true,
  changeKey: datasetChangeKey,
  run: async (inputs, { files }) => {
    const dataset = await readDataset(files, inputs.text("folder"));
    const { clipSkip } = inputs.value("clip", "CLIP");
    const decoded: Picture[] = [];
    for (const { path } of dataset) decoded.push(await decodePicture(await readFile(path)));
    const pictures = await toBatch(decoded, inputs);
    // An empty or missing caption is encoded and then encoded again: one conditioning too many, so the training that
    // follows refuses the set. That is how this generation of ComfyUI is, and drivers have to know it.
    const conditionings = dataset.flatMap(({ caption }) =>
      caption ? [{ text: caption, clipSkip }] : Array.from({ length: 2 }, () => ({ text: "", clipSkip })),
    );
    return {
      outputs: [
        { type: "IMAGE", pictures },
        { type: "CONDITIONING", conditionings },
      ],
    };
  },
};

/** Brings pictures to one size, as a batch needs; without a method they must have it already. */
async function toBatch(pictures: Picture[], inputs: NodeInputs): Promise<Picture[]> {
  const [first] = pictures;
  if (first === undefined) return [];
  const [askedWidth, askedHeight] = [inputs.number("width", -1), inputs.number("height", -1)];
  const width = askedWidth > 0 ? askedWidth : first.width;
  const height = askedHeight > 0 ? askedHeight : first.height;
  const fit = ({ Stretch: "stretch", Crop: "crop", Pad: "pad" } as Record<string, Fit>)[inputs.text("resize_method")];
  if (fit !== undefined) return Promise.all(pictures.map((picture) => resizePicture(picture, width, height, fit)));
  for (const picture of pictures) {
    if (picture.width === first.width && picture.height === first.height) continue;
    const size = `${picture.height}x${picture.width}`;
    throw new PythonError(
      "RuntimeError",
      `Sizes of tensors must match: expected ${first.height}x${first.width}, got ${size}`,
    );
  }
  return pictures;
}

const LoadImageTextDataSetFromFolder: NodeClass = {
  displayName: "Load Image and Text Dataset from Folder",
  category: "dataset/image",
  module: "comfy_extras.nodes_dataset",
  required: { folder: choice((files) => files.listInputFolders("all")) },
  outputs: [
    { type: "IMAGE", name: "images", isList: true },
    { type: "STRING", name: "texts", isList: true },
  ],
  isExperimental: true,
  isSchemaV3: true,
  changeKey: datasetChangeKey,
  run: async (inputs, { files }) => {
    const dataset = await readDataset(files, inputs.text("folder"));
    const pictures: Picture[] = [];
    for (const { path } of dataset) pictures.push(await decodePicture(await readFile(path)));
    return {
      outputs: [
        { type: "IMAGE", pictures },
        { type: "STRING", texts: dataset.map(({ caption }) => caption ?? "") },
      ],
    };
  },
};

/** A node that does one thing to each picture of a list. */
function pictureTransform(
  displayName: string,
  sizes: Record<string, InputSpec>,
  transform: (picture: Picture, inputs: NodeInputs) => Picture | Promise<Picture>,
): NodeClass {
  return {
    displayName,
    category: "dataset/image",
    module: "comfy_extras.nodes_dataset",
    required: { images: link("IMAGE"), ...sizes },
    outputs: [{ type: "IMAGE", name: "images" }],
    isExperimental: true,
    isSchemaV3: true,
    run: async (inputs) => {
      const { pictures } = inputs.value("images", "IMAGE");
      return {
        outputs: [
          { type: "IMAGE", pictures: await Promise.all(pictures.map((picture) => transform(picture, inputs))) },
        ],
      };
    },
  };
}

const ResizeImagesByShorterEdge = pictureTransform(
  "Resize Images by Shorter Edge",
  { shorter_edge: integer(512, 1, 8192) },
  (picture, inputs) => {
    const edge = inputs.number("shorter_edge");
    const scale = edge / Math.min(picture.width, picture.height);
    const fit = (length: number) => Math.max(1, Math.trunc(length * scale + 1e-9));
    return resizePicture(picture, fit(picture.width), fit(picture.height), "stretch");
  },
);

const CenterCropImages = pictureTransform(
  "Center Crop Images",
  { width: integer(512, 1, 8192), height: integer(512, 1, 8192) },
  (picture, inputs) => cropCenter(picture, inputs.number("width"), inputs.number("height")),
);

const MakeTrainingDataset: NodeClass = {
  displayName: "Make Training Dataset",
  category: "dataset",
  module: "comfy_extras.nodes_dataset",
  required: { images: link("IMAGE"), vae: link("VAE"), clip: link("CLIP") },
  optional: { texts: text("") },
  outputs: [
    { type: "LATENT", name: "latents", isList: true },
    { type: "CONDITIONING", name: "conditioning", isList: true },
  ],
  isExperimental: true,
  isInputList: true,
  isSchemaV3: true,
  run: (inputs) => {
    const { pictures } = inputs.value("images", "IMAGE");
    const { clipSkip } = inputs.value("clip", "CLIP");
    const literal = inputs.has("texts") ? [inputs.text("texts")] : [""];
    const given = inputs.optional("texts", "STRING")?.texts ?? literal;
    const texts = given.length === 1 ? pictures.map(() => given[0] ?? "") : given;
    if (texts.length !== pictures.length) {
      const counts = `Number of texts (${texts.length}) does not match number of images (${pictures.length})`;
      throw new PythonError("ValueError", `${counts}. Text list should have length ${pictures.length}, 1, or 0.`);
    }
    const conditionings = texts.map((caption) => ({ text: caption, clipSkip }));
    return { outputs: [encodeLatent(pictures), { type: "CONDITIONING", conditionings }] };
  },
};

const noLora = "[None]";
const trainingInputs: Record<string, InputSpec> = {
  model: link("MODEL"),
  latents: link("LATENT"),
  positive: link("CONDITIONING"),
  batch_size: integer(1, 1, 10000, { step: 1 }),
  grad_accumulation_steps: integer(1, 1, 1024, { step: 1 }),
  steps: integer(16, 1, 100000, { step: 1 }),
  learning_rate: decimal(0.0005, 0.0000001, 1, 0.000001),
  rank: integer(8, 1, 128, { step: 1 }),
  optimizer: choice(["AdamW", "Adam", "SGD", "RMSprop"], { default: "AdamW" }),
  loss_function: choice(["MSE", "L1", "Huber", "SmoothL1"], { default: "MSE" }),
  seed: { type: "INT", config: { ...seedInput.config, control_after_generate: undefined } },
  training_dtype: choice(["bf16", "fp32"], { default: "bf16" }),
  lora_dtype: choice(["bf16", "fp32"], { default: "bf16" }),
  algorithm: choice(["LoRA", "LoHa", "LoKr", "OFT"], { default: "LoRA" }),
  gradient_checkpointing: flag(true),
  existing_lora: choice((files) => [...(files.listModels("loras") ?? []), noLora], { default: noLora }),
};

const trainLora: Pick<NodeClass, "displayName" | "category" | "module" | "isExperimental"> = {
  displayName: "Train LoRA",
  category: "training",
  module: "comfy_extras.nodes_train",
  isExperimental: true,
};

const TrainLoraNodeA: NodeClass = {
  ...trainLora,
  required: trainingInputs,
  outputs: [
    { type: "MODEL", name: "model_with_lora" },
    { type: "LORA_MODEL", name: "lora" },
    { type: "LOSS_MAP", name: "loss" },
    { type: "INT", name: "steps" },
  ],
  // This generation of ComfyUI sends no progress while it trains and heeds no interrupt. The demo engine does both:
  // somebody watches it.
  run: (inputs, run) => runTraining(inputs, run, 1),
};

const TrainLoraNodeC: NodeClass = {
  ...trainLora,
  required: {
    ...trainingInputs,
    training_dtype: choice(["bf16", "fp32", "none"], { default: "bf16" }),
    checkpoint_depth: integer(1, 1, 5, { step: 1 }),
    offloading: flag(false),
    bucket_mode: flag(false),
    bypass_mode: flag(false),
  },
  outputs: [
    { type: "LORA_MODEL", name: "lora" },
    { type: "LOSS_MAP", name: "loss_map" },
    { type: "INT", name: "steps" },
  ],
  isInputList: true,
  isSchemaV3: true,
  // Every micro-step ticks here, so the bar's end is steps times accumulation. The model is no longer an output.
  run: async (inputs, run) => {
    const { outputs } = await runTraining(inputs, run, inputs.number("grad_accumulation_steps"));
    return { outputs: outputs.slice(1) };
  },
};

async function runTraining(inputs: NodeInputs, run: NodeRun, ticksPerStep: number): Promise<NodeResult> {
  const model = inputs.value("model", "MODEL");
  const latents = inputs.value("latents", "LATENT");
  const captions = inputs.value("positive", "CONDITIONING").conditionings.map((conditioning) => conditioning.text);
  const pictures = latents.pictures ?? [];
  if (pictures.length === 0) throw new PythonError("ValueError", "No latents to train on");
  if (captions.length !== pictures.length && captions.length !== 1) {
    const counts = `Number of positive conditions (${captions.length}) does not match number of latents`;
    throw new PythonError("ValueError", `${counts} (${pictures.length}).`);
  }
  const steps = inputs.number("steps");
  const before = await continuedSteps(inputs.text("existing_lora"), run.files);
  const options = {
    steps,
    rank: inputs.number("rank"),
    learningRate: inputs.number("learning_rate"),
    batchSize: inputs.number("batch_size"),
    seed: inputs.number("seed"),
  };
  const { palette, factors, losses } = await train(pictures, options, async (step) => {
    for (let tick = 1; tick <= ticksPerStep; tick++) {
      await run.step((step - 1) * ticksPerStep + tick, steps * ticksPerStep);
    }
  });
  const metadata = describeTraining(inputs, model.checkpoint, captions, losses, before + steps);
  const dtype = inputs.text("lora_dtype") === "bf16" ? "BF16" : "F32";
  const tensorFile = styleToFile(palette, factors, dtype, metadata);
  const file = encodeSafetensors(tensorFile);
  const style = styleFromFile(tensorFile, sha256(file));
  const outputs: Value[] = [
    { ...model, styles: apply(model.styles, { style, strength: 1 }) },
    { type: "LORA_MODEL", style, file },
    { type: "LOSS_MAP", losses },
    { type: "INT", value: before + steps },
  ];
  return { outputs };
}

/** Steps already in a LoRA to be trained on: ComfyUI reads them from `…_<n>_steps_…` and fails on other names. */
async function continuedSteps(name: string, files: EngineFiles): Promise<number> {
  if (name === noLora || name === "") return 0;
  const path = files.findModel("loras", name);
  if (path === null)
    throw new PythonError("FileNotFoundError", `Model in folder 'loras' with filename '${name}' not found.`);
  await loadStyle(path);
  const count = name.split("_steps_")[0]?.split("_").at(-1) ?? "";
  if (!name.includes("_steps_") || !/^\d+$/.test(count)) {
    throw new PythonError("ValueError", `invalid literal for int() with base 10: '${count}'`);
  }
  return Number(count);
}

/** The file's `__metadata__`, in the names that LoRA tools know. ComfyUI itself writes none. */
function describeTraining(
  inputs: NodeInputs,
  checkpoint: string,
  captions: string[],
  losses: number[],
  totalSteps: number,
): Record<string, string> {
  const frequency: Record<string, number> = {};
  for (const tag of captions.flatMap((caption) => caption.split(","))) {
    if (tag.trim() !== "") frequency[tag.trim()] = (frequency[tag.trim()] ?? 0) + 1;
  }
  return {
    ss_network_module: "networks.lora",
    ss_network_dim: String(inputs.number("rank")),
    ss_network_alpha: String(inputs.number("rank")),
    ss_steps: String(totalSteps),
    ss_learning_rate: String(inputs.number("learning_rate")),
    ss_batch_size_per_device: String(inputs.number("batch_size")),
    ss_optimizer: inputs.text("optimizer"),
    ss_seed: String(inputs.number("seed")),
    ss_num_train_images: String(captions.length),
    ss_sd_model_name: checkpoint,
    ss_base_model_version: /v2|sd2|768/i.test(checkpoint) ? "sd_v2" : "sd_v1",
    ss_tag_frequency: JSON.stringify({ training: frequency }),
    demo: "Made by the Atelier demo engine: a palette and a texture of the pictures, no weights of a diffusion model.",
    demo_first_loss: String(losses[0] ?? 0),
    demo_last_loss: String(losses.at(-1) ?? 0),
    demo_words: [...new Set(captions.flatMap(wordsOf))].slice(0, 200).join(" "),
  };
}

/** Writes the trained file. Reports nothing: clients must know the name by its prefix. */
function saveLora(isSchemaV3: boolean): NodeClass {
  return {
    displayName: "Save LoRA Weights",
    category: "loaders",
    module: "comfy_extras.nodes_train",
    required: { lora: link("LORA_MODEL"), prefix: text("loras/ComfyUI_trained_lora") },
    optional: { steps: { type: "INT", config: { forceInput: true } } },
    outputs: [],
    isOutput: true,
    isExperimental: true,
    isSchemaV3,
    run: async (inputs, { files }) => {
      const { file } = inputs.value("lora", "LORA_MODEL");
      const slot = files.nextSlot("output", inputs.text("prefix"));
      const steps = inputs.has("steps") ? `_${inputs.number("steps")}_steps` : "";
      const name = `${slot.name}${steps}_${String(slot.counter).padStart(5, "0")}_.safetensors`;
      await writeWhole(join(slot.directory, name), file);
      return { outputs: [] };
    },
  };
}

/** The training nodes of ComfyUI 0.3.64. */
export const trainingNodesA = {
  LoadImageTextSetFromFolderNode,
  TrainLoraNode: TrainLoraNodeA,
  SaveLoRANode: saveLora(false),
};

/** The training nodes of 2026. */
export const trainingNodesC = {
  LoadImageTextDataSetFromFolder,
  ResizeImagesByShorterEdge,
  CenterCropImages,
  MakeTrainingDataset,
  TrainLoraNode: TrainLoraNodeC,
  SaveLoRA: saveLora(true),
};

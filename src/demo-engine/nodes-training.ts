/** The node classes that train and save a LoRA, in two shapes: before and after ComfyUI's new node schema. */
import { join } from "node:path";
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
import { seedInput } from "./nodes-picture.ts";
import { PythonError } from "./python.ts";
import { encodeSafetensors } from "./safetensors.ts";
import { loadStyle, styleFromFile, styleToFile, wordsOf } from "./style.ts";
import { train } from "./train.ts";
import type { NodeInputs, Value } from "./values.ts";

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
  const tellStep = async (step: number) => {
    for (let tick = 1; tick <= ticksPerStep; tick++) {
      await run.step((step - 1) * ticksPerStep + tick, steps * ticksPerStep);
    }
  };
  const fitted = run.isInstant ? { ...options, steps: 1 } : options;
  const { palette, factors, losses } = await train(pictures, fitted, tellStep);
  for (let step = fitted.steps + 1; step <= steps; step++) await tellStep(step);
  const metadata = describeTraining(inputs, model.checkpoint, captions, losses, before + steps);
  const dtype = inputs.text("lora_dtype") === "bf16" ? "BF16" : "F32";
  const tensorFile = styleToFile(palette, factors, dtype, metadata);
  const file = encodeSafetensors(tensorFile);
  const style = styleFromFile(tensorFile, sha256(file));
  const outputs: Value[] = [
    { ...model, styles: [...model.styles, { style, strength: 1 }] },
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
    run: async (inputs, { files, saved }) => {
      const { file } = inputs.value("lora", "LORA_MODEL");
      const slot = files.nextSlot("output", inputs.text("prefix"));
      const steps = inputs.has("steps") ? `_${inputs.number("steps")}_steps` : "";
      const name = `${slot.name}${steps}_${String(slot.counter).padStart(5, "0")}_.safetensors`;
      await writeWhole(join(slot.directory, name), saved(file));
      return { outputs: [] };
    },
  };
}

/** As ComfyUI 0.3.64 has them. */
export const trainingNodesA = { TrainLoraNode: TrainLoraNodeA, SaveLoRANode: saveLora(false) };

/** As in 2026. */
export const trainingNodesC = { TrainLoraNode: TrainLoraNodeC, SaveLoRA: saveLora(true) };

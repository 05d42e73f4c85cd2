/**
 * The graphs that we submit, in the engine's API format: `{ id: { class_type, inputs } }`, a link being `[id, output]`.
 * Ids are numerals because the engine's own editor writes them so; the ones that `watch` looks for are named here.
 */
import type { InferenceJob, Scheduler, TrainingJob } from "../driver.ts";
import { fillInputs, type NodeInfo, outputIndex } from "./object-info.ts";

type Link = [node: string, output: number];
export type Graph = Record<string, { class_type: string; inputs: Record<string, unknown> }>;

/** The node whose ticks are the run's steps, and what comes after it, in every graph of ours. */
export const stepsNode = "5";
export const savingNodes: readonly string[] = ["6", "7"];

/** Ours, after the protocol notes. PNDM has no like here: ipndm is its nearest relative, results differ. */
export const samplers: Record<Scheduler, { sampler: string; scheduler: string }> = {
  DDIM: { sampler: "ddim", scheduler: "ddim_uniform" },
  K_EULER: { sampler: "euler", scheduler: "normal" },
  K_EULER_ANCESTRAL: { sampler: "euler_ancestral", scheduler: "normal" },
  DPMSolverMultistep: { sampler: "dpmpp_2m", scheduler: "normal" },
  KLMS: { sampler: "lms", scheduler: "normal" },
  PNDM: { sampler: "ipndm", scheduler: "normal" },
};

export interface InferenceFiles {
  /** A checkpoint of our own takes the base checkpoint's place. */
  checkpoint: string;
  /** The uploaded picture to start from, as `LoadImage` names it. */
  image?: string;
  lora?: string;
  hypernetwork?: string;
  embedding?: string;
}

/** txt2img, or img2img when `files.image` is set. */
export function inferenceGraph(job: InferenceJob, files: InferenceFiles, outputPrefix: string): Graph {
  const graph: Graph = { "1": { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: files.checkpoint } } };
  const weight = job.model?.weight ?? 1;
  let model: Link = ["1", 0];
  let clip: Link = ["1", 1];
  if (files.lora) {
    const inputs = { model, clip, lora_name: files.lora, strength_model: weight, strength_clip: weight };
    graph["10"] = { class_type: "LoraLoader", inputs };
    model = ["10", 0];
    clip = ["10", 1];
  }
  if (files.hypernetwork) {
    const inputs = { model, hypernetwork_name: files.hypernetwork, strength: weight };
    graph["10"] = { class_type: "HypernetworkLoader", inputs };
    model = ["10", 0];
  }
  // Before the user's words: an open parenthesis among them would make plain text of an embedding that follows.
  const prompt = files.embedding ? `(embedding:${files.embedding}:${weight}), ${job.prompt}` : job.prompt;
  graph["2"] = { class_type: "CLIPTextEncode", inputs: { text: prompt, clip } };
  graph["3"] = { class_type: "CLIPTextEncode", inputs: { text: job.negativePrompt, clip } };
  const { width, height } = job;
  if (files.image) {
    graph["8"] = { class_type: "LoadImage", inputs: { image: files.image } };
    graph["9"] = scale(["8", 0], width, height);
    graph["4"] = { class_type: "VAEEncode", inputs: { pixels: ["9", 0], vae: ["1", 2] } };
  } else {
    graph["4"] = { class_type: "EmptyLatentImage", inputs: { width, height, batch_size: 1 } };
  }
  const { sampler, scheduler } = samplers[job.scheduler];
  graph[stepsNode] = {
    class_type: "KSampler",
    inputs: {
      model,
      positive: ["2", 0],
      negative: ["3", 0],
      latent_image: ["4", 0],
      seed: job.seed,
      steps: job.steps,
      cfg: job.guidanceScale,
      sampler_name: sampler,
      scheduler,
      denoise: job.from?.strength ?? 1,
    },
  };
  graph["6"] = { class_type: "VAEDecode", inputs: { samples: [stepsNode, 0], vae: ["1", 2] } };
  graph["7"] = { class_type: "SaveImage", inputs: { images: ["6", 0], filename_prefix: outputPrefix } };
  return graph;
}

/** What an engine offers to train a LoRA with. Two generations of loader nodes exist; one of them is set. */
export interface TrainingNodes {
  train: NodeInfo;
  saveClass: "SaveLoRA" | "SaveLoRANode";
  /** From the end of 2025 on: pictures and captions as lists, encoded by one node. */
  lists?: { load: NodeInfo; encode: NodeInfo };
  /** Before: one node loads, resizes and encodes the captions. */
  batch?: NodeInfo;
}

/** Pictures and captions lie in `folder` below the engine's input folder. */
export function trainingGraph(job: TrainingJob, nodes: TrainingNodes, folder: string, outputPrefix: string): Graph {
  const graph: Graph = { "1": { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: job.checkpoint } } };
  const edge = job.resolution;
  let latents: Link;
  let positive: Link;
  if (nodes.lists) {
    const { load, encode } = nodes.lists;
    graph["2"] = { class_type: "LoadImageTextDataSetFromFolder", inputs: { folder } };
    // The engine maps ImageScale over the list. It is older and more settled than the data set's own crop nodes.
    graph["3"] = scale(["2", outputIndex(load, "IMAGE")], edge, edge);
    const inputs = { images: ["3", 0], vae: ["1", 2], clip: ["1", 1], texts: ["2", outputIndex(load, "STRING")] };
    graph["4"] = { class_type: "MakeTrainingDataset", inputs };
    latents = ["4", outputIndex(encode, "LATENT")];
    positive = ["4", outputIndex(encode, "CONDITIONING")];
  } else if (nodes.batch) {
    // One batch needs one size. This node's "Crop" cuts the corner without scaling, so "Stretch" is the lesser evil.
    const ours = { folder, clip: ["1", 1], resize_method: "Stretch", width: edge, height: edge };
    graph["2"] = { class_type: "LoadImageTextSetFromFolderNode", inputs: fillInputs(nodes.batch, ours) };
    graph["4"] = {
      class_type: "VAEEncode",
      inputs: { pixels: ["2", outputIndex(nodes.batch, "IMAGE")], vae: ["1", 2] },
    };
    latents = ["4", 0];
    positive = ["2", outputIndex(nodes.batch, "CONDITIONING")];
  } else {
    throw new TypeError("trainingGraph needs a loader node");
  }
  const ours = {
    model: ["1", 0],
    latents,
    positive,
    batch_size: job.batchSize,
    // With more, older builds end their progress bar early.
    grad_accumulation_steps: 1,
    steps: job.steps,
    learning_rate: job.learningRate,
    rank: job.rank,
    seed: job.seed,
  };
  graph[stepsNode] = { class_type: "TrainLoraNode", inputs: fillInputs(nodes.train, ours) };
  // `steps` is not linked: it would become part of the file's name.
  const lora: Link = [stepsNode, outputIndex(nodes.train, "LORA_MODEL")];
  graph["6"] = { class_type: nodes.saveClass, inputs: { lora, prefix: outputPrefix } };
  return graph;
}

function scale(image: Link, width: number, height: number): Graph[string] {
  return { class_type: "ImageScale", inputs: { image, upscale_method: "lanczos", width, height, crop: "center" } };
}

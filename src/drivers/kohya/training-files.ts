/** What sd-scripts reads of a training: its arguments and data set in TOML, its sample prompts in JSON, the captions. */
import { EngineError, type InputFile, type TrainingJob } from "../driver.ts";
import { trainingScripts } from "./inspect.ts";
import { type TomlValue, tomlLines } from "./toml.ts";

/** The name of everything that is written: users' names never reach the host. */
export const outputName = "model";

/**
 * The word that a textual inversion is trained as. It must be no word of the tokenizer's, and is not kept in the file:
 * whoever uses the embedding calls it by the file's name.
 */
const token = "atelierconcept";
const tokenVectors = 4;

/** What sd-scripts' own list and every Pillow agree on. */
const pictureExtensions = ["png", "jpg", "jpeg", "webp"];

/** Where things lie in a run's folder, in which the training runs: what has another name elsewhere is linked there. */
export const places = {
  data: "data",
  out: "out",
  /** The state to go on from. */
  resume: "resume",
  tokenizers: "tokenizers",
  dataset: "dataset.toml",
  config: "config.toml",
  samples: "samples.json",
} as const;

/** The link to the base model; scripts go by its extension. */
export const checkpointLink = (job: TrainingJob): string =>
  `checkpoint.${job.checkpoint.toLowerCase().endsWith(".ckpt") ? "ckpt" : "safetensors"}`;

export interface Circumstances {
  hasGpu: boolean;
  hasTokenizers: boolean;
  /** Steps that the state in `resume` has behind it; 0 without one. */
  resumed: number;
}

/** Arguments that every script knows, and those of the type. */
export function configToml(job: TrainingJob, { hasGpu, hasTokenizers, resumed }: Circumstances): string {
  // A state of a whole checkpoint is as large as several checkpoints.
  const saveEvery = Math.ceil(job.steps / (job.type === "ckp" ? 4 : 10));
  const values: Record<string, TomlValue> = {
    pretrained_model_name_or_path: checkpointLink(job),
    ...modelVersion(job),
    dataset_config: places.dataset,
    output_dir: places.out,
    output_name: outputName,
    save_model_as: "safetensors",
    save_precision: "fp16",
    // All scripts count from 0 again after a resume, or do it in ways of their own: what is left is a run by itself.
    max_train_steps: job.steps - resumed,
    learning_rate: job.learningRate,
    lr_scheduler: "constant",
    optimizer_type: "AdamW",
    mixed_precision: hasGpu ? "fp16" : "no",
    gradient_checkpointing: true,
    sdpa: true,
    cache_latents: true,
    seed: job.seed,
    max_data_loader_n_workers: 2,
    persistent_data_loader_workers: true,
    save_every_n_steps: saveEvery,
    // The last two: one may be cut off while it is written.
    save_last_n_steps: saveEvery,
    save_last_n_steps_state: saveEvery,
    save_state: true,
    sample_prompts: places.samples,
    sample_every_n_steps: Math.ceil(job.steps / 4),
    sample_sampler: "euler_a",
    console_log_simple: true,
    ...(resumed > 0 ? { resume: places.resume } : {}),
    // Without the hub in reach, the text encoder's own is read from there.
    ...(hasTokenizers ? { tokenizer_cache_dir: places.tokenizers } : {}),
    ...typeSettings(job),
  };
  return tomlLines(values);
}

function typeSettings(job: TrainingJob): Record<string, TomlValue> {
  switch (job.type) {
    case "lora":
      return {
        network_module: "networks.lora",
        network_dim: job.rank,
        network_alpha: job.rank,
        // Over what the state says, by which this script alone would go.
        initial_step: 0,
      };
    case "ti":
      return { token_string: token, num_vectors_per_token: tokenVectors, ...firstWord(job.triggerWords) };
    default:
      return {};
  }
}

/** The embedding starts from what the model knows already of such a thing. */
function firstWord(triggerWords: string): Record<string, TomlValue> {
  const word = /[a-z]{3,}/i.exec(triggerWords)?.[0];
  return word ? { init_word: word.toLowerCase() } : {};
}

function modelVersion({ baseModel, checkpoint }: TrainingJob): Record<string, TomlValue> {
  if (baseModel !== "SD2") return {};
  // Of SD2, those for 768 pixels predict velocity, those for 512 noise; the file itself does not say.
  return { v2: true, v_parameterization: /768|v-?pred/i.test(checkpoint) };
}

/** Refuses what sd-scripts does not know: unknown keys end it. */
export function datasetToml(job: TrainingJob): string {
  // One pass over the data is the whole training: a new one starts the loader's processes anew.
  const repeats = Math.max(1, Math.ceil((job.steps * job.batchSize) / job.pictures.length));
  const bucketStep = 64;
  return [
    "[general]\n",
    tomlLines({ caption_extension: ".txt", shuffle_caption: false }),
    "\n[[datasets]]\n",
    tomlLines({
      resolution: job.resolution,
      batch_size: job.batchSize,
      enable_bucket: true,
      bucket_reso_steps: bucketStep,
      min_bucket_reso: Math.min(256, Math.floor(job.resolution / bucketStep) * bucketStep),
      max_bucket_reso: Math.max(1024, job.resolution * 2),
    }),
    "\n[[datasets.subsets]]\n",
    tomlLines({ image_dir: places.data, num_repeats: repeats }),
  ].join("");
}

/**
 * In JSON, where a prompt is a prompt: in the text format, ` --` in it begins an option, and some of them name files of
 * the host.
 */
export function samplesJson(job: TrainingJob): string {
  const edge = Math.min(job.resolution, 512);
  const prompt = promptOf(job, job.triggerWords || (job.pictures[0]?.caption ?? ""));
  const fixed = { negative_prompt: "", width: edge, height: edge, sample_steps: 20, scale: 7, seed: job.seed };
  return JSON.stringify([{ prompt, ...fixed }]);
}

/** Pictures and their captions, flat. */
export function dataFiles(job: TrainingJob): { name: string; content: InputFile | string }[] {
  if (trainingScripts[job.type] === undefined) {
    throw new EngineError("bad-input", `This engine trains no model of the type ${job.type}`);
  }
  return job.pictures.flatMap(({ image, caption }, index) => {
    const extension = image.extension.toLowerCase();
    if (!pictureExtensions.includes(extension)) {
      throw new EngineError("bad-input", `This engine reads no pictures of the type ${image.extension}`);
    }
    const name = String(index + 1).padStart(5, "0");
    return [
      { name: `${name}.${extension}`, content: image },
      { name: `${name}.txt`, content: promptOf(job, caption) },
    ];
  });
}

/** One line, for only the first is read; with the word of a textual inversion, for only what is named is learned. */
function promptOf({ type, triggerWords }: TrainingJob, text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out.
  const line = text.replace(/[\x00-\x1f\x7f\u0085\u2028\u2029]+/g, " ").trim();
  if (type !== "ti") return line;
  const named = triggerWords.trim();
  return named && line.includes(named) ? line.replaceAll(named, () => token) : `${token}, ${line}`;
}

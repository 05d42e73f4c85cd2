/**
 * Trains a textual inversion or a hypernetwork with the engine's own trainer. It reads pictures from a folder of its
 * host and leaves the model there as a pickle, which nobody here ever opens. It takes no seed, and it trains whatever
 * checkpoint is loaded: that is loaded first, and stays.
 */
import { EngineError, type TrainingJob } from "../driver.ts";
import type { HostFiles } from "../host-files/index.ts";
import type { HttpClient } from "../http.ts";
import { cleanMessage } from "../messages.ts";
import { pause } from "../pause.ts";
import { flags, type SdModel, told } from "./answers.ts";
import type { Engine } from "./engine.ts";
import { type A1111Handle, trainedName } from "./handle.ts";
import { isOutOfMemory } from "./refusals.ts";
import type { Outcome, OwnRun } from "./runs.ts";
import { getProgress, isIdle } from "./state.ts";
import { cleanUp, readTraces, runFolder } from "./training-files.ts";

/** Vectors of an embedding, as the other engines train them: few learn too little, many fit the pictures alone. */
const vectors = 4;
/** A slow disk reads a large checkpoint for minutes. */
const loadingMs = 15 * 60_000;
const cleaningMs = 60_000;

export interface TrainingRequest {
  checkpoint: SdModel;
  create: { path: string; body: Record<string, unknown> };
  train: { path: string; body: Record<string, unknown> };
}

/** @throws EngineError when the engine's directory cannot be found out */
export async function prepareTraining(
  client: HttpClient,
  handle: A1111Handle,
  job: TrainingJob,
  checkpoint: SdModel,
  signal: AbortSignal,
): Promise<TrainingRequest> {
  const root = await engineRoot(client, signal);
  if (!root) throw new EngineError("engine-failed", "The engine does not say where its files are");
  const isEmbedding = handle.trains === "ti";
  const name = trainedName(handle);
  const common = {
    // From 1.0 on it is asked for, and means nothing here.
    id_task: name,
    learn_rate: String(job.learningRate),
    batch_size: job.batchSize,
    gradient_step: 1,
    data_root: root(`${runFolder(handle)}/data`),
    log_directory: root(`${runFolder(handle)}/log`),
    training_width: job.resolution,
    training_height: job.resolution,
    varsize: false,
    steps: job.steps,
    clip_grad_mode: "disabled",
    clip_grad_value: "0.1",
    shuffle_tags: false,
    tag_drop_out: 0,
    latent_sampling_method: "once",
    use_weight: false,
    create_image_every: 0,
    preview_from_txt2img: false,
    preview_prompt: "",
    preview_negative_prompt: "",
    preview_steps: 20,
    preview_sampler_name: "Euler",
    preview_cfg_scale: 7,
    preview_seed: job.seed,
    preview_width: job.resolution,
    preview_height: job.resolution,
  };
  if (isEmbedding) {
    const word = /[a-z]{3,}/i.exec(job.triggerWords)?.[0]?.toLowerCase();
    return {
      checkpoint,
      create: {
        path: "/sdapi/v1/create/embedding",
        body: { name, num_vectors_per_token: vectors, overwrite_old: true, init_text: word ?? "*" },
      },
      train: {
        path: "/sdapi/v1/train/embedding",
        body: {
          embedding_name: name,
          ...common,
          save_embedding_every: job.steps,
          template_filename: "subject_filewords.txt",
          save_image_with_stored_embedding: false,
        },
      },
    };
  }
  return {
    checkpoint,
    create: {
      path: "/sdapi/v1/create/hypernetwork",
      body: {
        name,
        // Those of SD1.5 and of SD2: the layers that a checkpoint does not have stay as they are.
        enable_sizes: [768, 1024, 320, 640, 1280],
        overwrite_old: true,
        layer_structure: "1, 2, 1",
        activation_func: "linear",
        weight_init: "Normal",
        add_layer_norm: false,
        use_dropout: false,
      },
    },
    train: {
      path: "/sdapi/v1/train/hypernetwork",
      body: {
        hypernetwork_name: name,
        ...common,
        save_hypernetwork_every: job.steps,
        template_filename: "hypernetwork.txt",
      },
    },
  };
}

/** Paths below the web UI's directory in its host's own words, or null when it has been laid out otherwise. */
export async function engineRoot(client: HttpClient, signal: AbortSignal): Promise<((path: string) => string) | null> {
  const found = await client.find("/sdapi/v1/cmd-flags", flags, signal);
  const [, directory, separator] = found?.embeddings_dir?.match(/^(.+)([\\/])embeddings$/) ?? [];
  if (!directory || !separator) return null;
  return (path) => `${directory}${separator}${path.replaceAll("/", separator)}`;
}

/** Waits for its turn, trains, and takes the model. Never rejects. */
export async function train(
  engine: Engine,
  files: HostFiles,
  handle: A1111Handle,
  request: TrainingRequest,
  run: OwnRun,
): Promise<Outcome> {
  // The engine trains beside its queue: two trainings at once would spoil each other.
  const turn = engine.runs.inLine(engine.place, () => attempt(engine, files, handle, request, run));
  const outcome = await turn.catch((error): Outcome => {
    if (error instanceof EngineError && error.errorClass !== "unreachable") return { is: "failed", error };
    return { is: "cut" };
  });
  // While the engine may still be at it, its files stay: whoever sees it end takes them away.
  if (outcome.is !== "cut") await cleanUp(files, handle, AbortSignal.timeout(cleaningMs)).catch(() => {});
  return outcome;
}

async function attempt(
  engine: Engine,
  files: HostFiles,
  handle: A1111Handle,
  request: TrainingRequest,
  run: OwnRun,
): Promise<Outcome> {
  const { client, pace } = engine;
  const { signal } = new AbortController();
  // Another process's training, or pictures: they would be spoiled as well.
  while (!run.isCanceled && !(await isFree(client, signal))) await pause(pace.mostMs, signal);
  if (run.isCanceled) return { is: "canceled" };
  run.isSubmitted = true;
  const load = { method: "POST" as const, json: { sd_model_checkpoint: request.checkpoint.title } };
  await client.request("/sdapi/v1/options", signal, { ...load, timeoutMs: loadingMs }, async (response) => {
    await response.body?.cancel();
    if (!response.ok) throw new EngineError("model-missing", "The engine cannot load the job's checkpoint");
  });
  const created = await say(client, request.create.path, request.create.body, signal);
  if (/ error: /.test(created)) throw trainingError(created);
  if (run.isCanceled) return { is: "canceled" };
  const error = await negotiate(client, request.train, signal);
  if (error) throw trainingError(error);
  const { result } = await readTraces(files, handle, true, signal);
  return result ? { is: "finished", artifacts: [result] } : { is: "canceled" };
}

export async function isFree(client: HttpClient, signal: AbortSignal): Promise<boolean> {
  const progress = await getProgress(client, signal).catch(() => null);
  return progress !== null && isIdle(progress);
}

async function say(client: HttpClient, path: string, json: object, signal: AbortSignal): Promise<string> {
  return (await client.get(path, told, signal, { method: "POST", json, timeoutMs: null })).info;
}

/** What else a build may insist on. */
const spare: Record<string, unknown> = { preview_sampler_index: 0, template_file: "", preview_scheduler: "Automatic" };

/**
 * The functions behind these routes want exactly their own arguments, which changed from build to build; nothing has
 * begun when they refuse one. @returns what went wrong, null when nothing did
 */
async function negotiate(
  client: HttpClient,
  { path, body }: TrainingRequest["train"],
  signal: AbortSignal,
): Promise<string | null> {
  const args = { ...body };
  for (let refusals = 0; refusals < 10; refusals++) {
    const error = (await say(client, path, args, signal)).match(/error: (.*)$/s)?.[1]?.trim() ?? "";
    const unexpected = error.match(/unexpected keyword argument '(\w+)'/)?.[1];
    const missing = error.match(/missing \d+ required positional arguments?: (.+)$/s)?.[1]?.matchAll(/'(\w+)'/g);
    const wanted = [...(missing ?? [])].map(([, name = ""]) => name);
    if (unexpected && unexpected in args) delete args[unexpected];
    else if (wanted.length > 0 && wanted.every((name) => name in spare)) {
      for (const name of wanted) args[name] = spare[name];
    } else return error === "None" || error === "" ? null : error;
  }
  return "the engine's trainer takes other arguments";
}

function trainingError(said: string): EngineError {
  if (isOutOfMemory(said)) return new EngineError("out-of-memory", "The server ran out of memory");
  return new EngineError("engine-failed", `The engine failed: ${cleanMessage(said)}`);
}

/** Brings a job to the engine: uploads what it needs, lays out its graph, submits it once. */
import type { z } from "zod";
import { EngineError, type EngineJob, type InferenceJob, type InputFile, type TrainingJob } from "../driver.ts";
import type { HostFiles } from "../host-files/index.ts";
import { readJson, wrongEngine } from "../http.ts";
import { promptAccepted, promptRefused } from "./answers.ts";
import { cancelRun } from "./cancel.ts";
import { checkInference, checkTraining } from "./checks.ts";
import type { ComfyClient } from "./client.ts";
import { type Graph, type InferenceFiles, inferenceGraph, trainingGraph } from "./graphs.ts";
import type { ComfyHandle } from "./handle.ts";
import { findCheckpoint, placeModel } from "./models.ts";
import { validationError } from "./refusals.ts";
import { isKnownRun } from "./state.ts";
import { textFile, upload } from "./upload.ts";

const places = {
  lora: { folder: "loras", serves: "lora" },
  ckp: { folder: "checkpoints", serves: "checkpoint" },
  hyper: { folder: "hypernetworks", serves: "hypernetwork" },
  ti: { folder: "embeddings", serves: "embedding" },
} as const;
/** What every build's loader nodes read. */
const pictureExtensions = ["png", "jpg", "jpeg", "webp"];
/** Enough to hide the round trips of many small files without taking the engine's whole line. */
const uploadsAtOnce = 4;

export async function startRun(
  client: ComfyClient,
  hostFiles: HostFiles | null,
  handle: ComfyHandle,
  job: EngineJob,
  signal: AbortSignal,
): Promise<void> {
  // The engine runs an id twice when it is posted twice, so it is asked first.
  const isKnown = () => isKnownRun(client, handle.promptId, signal);
  const hasUploads = job.kind === "train" || job.model !== undefined || job.from !== undefined;
  if (hasUploads && (await isKnown())) return;
  const bringing =
    job.kind === "infer"
      ? bringInference(client, hostFiles, handle, job, signal)
      : bringTraining(client, handle, job, signal);
  // Uploads take their time: an earlier call, cut off in the middle, may have been served meanwhile. Without any, a GPU
  // waits for us: both at once.
  if (hasUploads) await bringing;
  else bringing.catch(() => {}); // thrown below, unless the run is there
  if (await isKnown()) return;
  await submit(client, handle, await bringing, signal);
}

async function bringInference(
  client: ComfyClient,
  hostFiles: HostFiles | null,
  handle: ComfyHandle,
  job: InferenceJob,
  signal: AbortSignal,
): Promise<Graph> {
  const { model, from } = job;
  const files: InferenceFiles = { checkpoint: job.checkpoint };
  const checkpoint = model?.type === "ckp" ? null : findCheckpoint(client, job.checkpoint, signal);
  checkpoint?.catch(() => {}); // thrown below: what is wrong with the job itself comes first
  await checkInference(client, job, signal);
  await checkpoint;
  if (model) {
    const { folder, serves } = places[model.type];
    files[serves] = await placeModel(client, hostFiles, folder, model.file, signal);
  }
  if (from) {
    const filename = `${from.image.hash}.${pictureExtension(from.image)}`;
    files.image = await upload(client, { type: "input", subfolder: "atelier", filename }, from.image, signal);
  }
  return inferenceGraph(job, files, handle.outputPrefix);
}

async function bringTraining(client: ComfyClient, handle: ComfyHandle, job: TrainingJob, signal: AbortSignal) {
  const nodes = await checkTraining(client, job, signal);
  await findCheckpoint(client, job.checkpoint, signal);
  // A flat folder of this run's own. A second start overwrites what an interrupted one has left.
  const folder = handle.runId;
  const files = job.pictures.flatMap(({ image, caption }, index) => {
    const name = String(index + 1).padStart(4, "0");
    return [
      { filename: `${name}.${pictureExtension(image)}`, source: image },
      { filename: `${name}.txt`, source: textFile(caption) },
    ];
  });
  const waiting = files.values();
  const work = async () => {
    for (const { filename, source } of waiting) {
      await upload(client, { type: "input", subfolder: folder, filename, overwrite: true }, source, signal);
    }
  };
  await Promise.all(Array.from({ length: uploadsAtOnce }, work));
  return trainingGraph(job, nodes, folder, handle.outputPrefix);
}

function pictureExtension(image: InputFile): string {
  const extension = image.extension.toLowerCase();
  if (pictureExtensions.includes(extension)) return extension;
  throw new EngineError("bad-input", `This engine reads no pictures of the type ${image.extension}`);
}

async function submit(client: ComfyClient, handle: ComfyHandle, graph: Graph, signal: AbortSignal): Promise<void> {
  const body = {
    prompt: graph,
    prompt_id: handle.promptId,
    client_id: handle.clientId,
    // Newer builds send previews for a run that asks for them; this method needs no files of its own.
    extra_data: handle.kind === "infer" ? { preview_method: "latent2rgb" } : {},
  };
  const answer = await client.request("/prompt", signal, { method: "POST", json: body }, async (response) => {
    if (response.status === 400) {
      const refused = promptRefused.safeParse(await response.json().catch(() => null));
      if (refused.success) throw refusedGraph(refused.data);
      throw wrongEngine();
    }
    return readJson(response, promptAccepted);
  });
  if (answer.prompt_id !== handle.promptId) {
    await cancelRun(client, answer.prompt_id, signal);
    throw new EngineError("wrong-engine", "This ComfyUI is too old: it chooses the ids of its runs itself");
  }
  // Accepted in part: the engine would run what is valid and skip the rest in silence.
  if (answer.node_errors && Object.keys(answer.node_errors).length > 0) {
    await cancelRun(client, handle.promptId, signal);
    throw validationError(answer.node_errors, "The engine refuses a part of the job");
  }
}

function refusedGraph({ error, node_errors = {} }: z.infer<typeof promptRefused>): EngineError {
  // A node class that this build lacks: another server may have it.
  if (error.type === "invalid_prompt" || error.type === "missing_node_type") {
    return new EngineError("engine-failed", "The engine lacks a node that the job needs", { cause: error });
  }
  return validationError(node_errors, error.message || error.type);
}

/** Model files on the engine: what it lists, and how ours come there, which takes access to its host. */
import { EngineError, type EngineModels, type InputFile, type ModelType } from "../driver.ts";
import { accept, type HttpClient } from "../http.ts";
import { pause } from "../pause.ts";
import { embeddings, named, type SdModel, sdModels } from "./answers.ts";
import type { Engine } from "./engine.ts";

/** Below the web UI's directory, or its `--data-dir`: that is what `shared_dir` has to be. */
export const modelFolders = {
  loras: "models/Lora",
  checkpoints: "models/Stable-diffusion",
  embeddings: "embeddings",
  hypernetworks: "models/hypernetworks",
};

const folderOf = { lora: "loras", ckp: "checkpoints", ti: "embeddings", hyper: "hypernetworks" } as const;

/** The route that makes the engine look at a folder again. It looks by itself only when it starts. */
export const refreshRoutes: Record<ModelType, string> = {
  lora: "/sdapi/v1/refresh-loras",
  ckp: "/sdapi/v1/refresh-checkpoints",
  ti: "/sdapi/v1/refresh-embeddings",
  // There is none, but the list is read anew after another one was made.
  hyper: "/sdapi/v1/create/hypernetwork",
};
const refreshMs = 5 * 60_000;
/** A hypernetwork without layers, made over and over. */
const emptyNetwork = { name: "atelier-refresh", enable_sizes: [], overwrite_old: true, layer_structure: "1, 1" };

export async function listModels(client: HttpClient, signal: AbortSignal): Promise<EngineModels> {
  const names = async (path: string) => ((await client.find(path, named, signal)) ?? []).map(({ name }) => name);
  const [checkpoints, loras, hypernetworks, found] = await Promise.all([
    client.get("/sdapi/v1/sd-models", sdModels, signal),
    names("/sdapi/v1/loras"),
    names("/sdapi/v1/hypernetworks"),
    listEmbeddings(client, signal),
  ]);
  return { checkpoints: checkpoints.map(checkpointName), loras, hypernetworks, embeddings: found };
}

export async function listEmbeddings(client: HttpClient, signal: AbortSignal): Promise<string[]> {
  const found = await client.find("/sdapi/v1/embeddings", embeddings, signal);
  return found ? [...Object.keys(found.loaded), ...Object.keys(found.skipped)] : [];
}

/** The title without the hash at its end, which is missing until the engine has computed it. */
const checkpointName = (model: SdModel): string => model.title.replace(/ \[[0-9a-f]{6,64}\]$/i, "");

/** File names on Windows hosts come with back-slashes. */
const baseName = (path: string): string => path.split(/[\\/]/).at(-1) ?? path;
const stem = (path: string): string => baseName(path).replace(/\.[^.]*$/, "");

/**
 * An unknown checkpoint is ignored in silence and the current one used: it is looked up, if need be after a refresh.
 * @throws EngineError "model-missing"
 */
export async function findCheckpoint(client: HttpClient, name: string, signal: AbortSignal): Promise<SdModel> {
  const find = async () =>
    (await client.get("/sdapi/v1/sd-models", sdModels, signal)).find(
      (model) => checkpointName(model) === name || model.title === name || model.model_name === name,
    );
  let found = await find();
  if (!found) {
    await refresh(client, "ckp", signal);
    found = await find();
  }
  if (found) return found;
  throw new EngineError("model-missing", "The job's checkpoint is not on this server");
}

export type Placed = { name: string; checkpoint?: SdModel };

/**
 * Brings a model to the engine's host unless the engine lists it already, and waits until it does.
 * @returns the engine's name of it
 * @throws EngineError "model-missing"
 */
export async function placeModel(
  { client, files, pace }: Engine,
  type: ModelType,
  file: InputFile,
  signal: AbortSignal,
): Promise<Placed> {
  const listed = await findPlaced(client, type, file, signal);
  if (listed) return listed;
  if (!files) {
    throw new EngineError("model-missing", "The model is not on this server, and we have no access to its files");
  }
  await files.put(folderOf[type], file, signal);
  const until = Date.now() + pace.listedMs;
  do {
    await refresh(client, type, signal);
    const found = await findPlaced(client, type, file, signal);
    if (found) return found;
    await pause(pace.firstMs, signal);
  } while (Date.now() < until);
  throw new EngineError("model-missing", "The engine does not list a model that was put into its shared_dir");
}

function refresh(client: HttpClient, type: ModelType, signal: AbortSignal): Promise<void> {
  const json = type === "hyper" ? emptyNetwork : {};
  // Checkpoints are read anew only between two jobs: somebody else's may take a while.
  const call = { method: "POST" as const, json, timeoutMs: refreshMs };
  return client.request(refreshRoutes[type], signal, call, async (response) => {
    await (await accept(response)).body?.cancel();
  });
}

async function findPlaced(
  client: HttpClient,
  type: ModelType,
  file: InputFile,
  signal: AbortSignal,
): Promise<Placed | null> {
  if (type === "ckp") {
    const models = await client.get("/sdapi/v1/sd-models", sdModels, signal);
    const checkpoint = models.find((model) => stem(model.filename ?? checkpointName(model)) === file.hash);
    return checkpoint ? { name: checkpoint.title, checkpoint } : null;
  }
  const { loras, hypernetworks, embeddings } = await listModels(client, signal);
  const names = { lora: loras, hyper: hypernetworks, ti: embeddings }[type];
  return names.includes(file.hash) ? { name: file.hash } : null;
}

/** Whether the engine's word for the checkpoint it used means this one. Null where it does not say. */
export function isSameCheckpoint(model: SdModel, used: { name: string | null; hash: string | null }): boolean | null {
  if (used.name) {
    const names = [model.model_name, checkpointName(model), stem(model.filename ?? checkpointName(model))];
    return names.includes(used.name);
  }
  return model.hash && used.hash ? model.hash === used.hash : null;
}

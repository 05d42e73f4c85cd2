/**
 * Model files on the engine. The engine reads `output/loras` and `output/checkpoints` besides its own folders, so an
 * upload into them makes a model usable without access to the host; the other types take its `shared_dir`.
 */
import { EngineError, type EngineModels, type InputFile } from "../driver.ts";
import type { HostFiles, ModelFolder } from "../host-files/index.ts";
import { pause } from "../pause.ts";
import { features, names } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { tooLarge, upload } from "./upload.ts";
import { findFile } from "./view.ts";

/** Ours lie apart from what the engine's owner put there. */
const subfolder = "atelier";
const listedWithinMs = 5_000;

async function listFolder(client: ComfyClient, folder: ModelFolder, signal: AbortSignal): Promise<string[]> {
  // Embeddings are named in prompts without their extension, and this route lists them so.
  const path = folder === "embeddings" ? "/embeddings" : `/models/${folder}`;
  return (await client.find(path, names, signal)) ?? [];
}

export async function listModels(client: ComfyClient, signal: AbortSignal): Promise<EngineModels> {
  const folders = ["checkpoints", "loras", "hypernetworks", "embeddings"] as const;
  const [checkpoints = [], loras = [], hypernetworks = [], embeddings = []] = await Promise.all(
    folders.map((folder) => listFolder(client, folder, signal)),
  );
  return { checkpoints, loras, hypernetworks, embeddings };
}

/** Embeddings that the engine's owner has put there: what users may name in their prompts. */
export async function listOwnersEmbeddings(client: ComfyClient, signal: AbortSignal): Promise<string[]> {
  const listed = await listFolder(client, "embeddings", signal);
  return listed.filter((name) => name.split(/[\\/]/)[0] !== subfolder);
}

/** @throws EngineError "model-missing" before anything is uploaded for a run that could not start */
export async function findCheckpoint(client: ComfyClient, name: string, signal: AbortSignal): Promise<void> {
  if ((await listFolder(client, "checkpoints", signal)).includes(name)) return;
  throw new EngineError("model-missing", "The job's checkpoint is not on this server");
}

/**
 * The engine's name of a model, which is brought there unless it lies there already. Runs twice without harm.
 * @param hostFiles null when we have no access to the engine's host: then only what the engine takes by upload can come
 * @throws EngineError "model-missing" when this server cannot be given it; another may have it
 */
export async function placeModel(
  client: ComfyClient,
  hostFiles: HostFiles | null,
  folder: ModelFolder,
  file: InputFile,
  signal: AbortSignal,
): Promise<string> {
  const find = async () => (await listFolder(client, folder, signal)).find((listed) => isNamedBy(listed, file));
  const listed = await find();
  const stored = listed === undefined ? null : await findFile(client, uploadedTo(folder, file), signal);
  // Another size: an engine that died while it wrote. No such upload: it came from its host's side, which is as good.
  if (listed && (stored?.bytes ?? file.size) === file.size) return listed;
  await bringModel(client, hostFiles, folder, file, listed !== undefined, signal);
  const until = Date.now() + listedWithinMs;
  for (;;) {
    const name = await find();
    if (name) return name;
    if (Date.now() >= until) break;
    await pause(100, signal);
  }
  throw new EngineError("model-missing", "The server does not list a model that was sent to it");
}

/** By upload where the engine reads what is uploaded, else and for what is too large through its host's files. */
async function bringModel(
  client: ComfyClient,
  hostFiles: HostFiles | null,
  folder: ModelFolder,
  file: InputFile,
  overwrite: boolean,
  signal: AbortSignal,
): Promise<void> {
  const isUploadable = folder === "loras" || folder === "checkpoints";
  if (isUploadable) {
    const limit = (await client.find("/features", features, signal))?.max_upload_size ?? Number.POSITIVE_INFINITY;
    try {
      if (file.size > limit) throw tooLarge();
      await upload(client, { ...uploadedTo(folder, file), overwrite }, file, signal);
      return;
    } catch (error) {
      // A proxy in front may take less than the engine.
      if (!(error instanceof EngineError && error.errorClass === "bad-input")) throw error;
    }
  }
  if (!hostFiles) {
    const reason = isUploadable ? "is too large to be sent there" : "can only be put there with access to its host";
    throw new EngineError("model-missing", `The model is not on this server and ${reason}`);
  }
  await hostFiles.put(folder, file, signal);
}

const uploadedTo = (folder: ModelFolder, file: InputFile) => ({
  type: "output" as const,
  subfolder: `${folder}/${subfolder}`,
  filename: `${file.hash}.${file.extension}`,
});

/** Engines on Windows list their names with back-slashes, and embeddings come without the extension. */
function isNamedBy(listed: string, file: InputFile): boolean {
  const name = listed.split(/[\\/]/).at(-1);
  return name === `${file.hash}.${file.extension}` || name === file.hash;
}

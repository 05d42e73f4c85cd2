/**
 * Model files on the engine. The engine reads `output/loras` and `output/checkpoints` besides its own folders, so an
 * upload into them makes a model usable without access to the host; there is no such way for the other types.
 */
import { EngineError, type EngineModels, type InputFile } from "../driver.ts";
import { pause } from "../pause.ts";
import { features, names } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { tooLarge, upload } from "./upload.ts";
import { findFile } from "./view.ts";

type Folder = "checkpoints" | "loras" | "hypernetworks" | "embeddings";

/** Ours lie apart from what the engine's owner put there. */
const subfolder = "atelier";
const listedWithinMs = 5_000;

async function listFolder(client: ComfyClient, folder: Folder, signal: AbortSignal): Promise<string[]> {
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

/** @throws EngineError "model-missing" before anything is uploaded for a run that could not start */
export async function findCheckpoint(client: ComfyClient, name: string, signal: AbortSignal): Promise<void> {
  if ((await listFolder(client, "checkpoints", signal)).includes(name)) return;
  throw new EngineError("model-missing", "The job's checkpoint is not on this server");
}

/**
 * The engine's name of a model that lies there already under the hash of its content.
 * @throws EngineError "model-missing"
 */
export async function presentModel(client: ComfyClient, folder: Folder, file: InputFile, signal: AbortSignal) {
  const name = (await listFolder(client, folder, signal)).find((listed) => isNamedBy(listed, file));
  if (name) return name;
  throw new EngineError("model-missing", "The model is not on this server, and its engine takes no such model from us");
}

/**
 * The engine's name of a model, which is uploaded unless it lies there already. Runs twice without harm.
 * @throws EngineError "model-missing" when this server cannot be given it; another may have it
 */
export async function placeModel(
  client: ComfyClient,
  folder: "loras" | "checkpoints",
  file: InputFile,
  signal: AbortSignal,
): Promise<string> {
  const find = async () => (await listFolder(client, folder, signal)).find((listed) => isNamedBy(listed, file));
  const filename = `${file.hash}.${file.extension}`;
  const directory = `${folder}/${subfolder}`;
  const listed = await find();
  if (listed) {
    const stored = await findFile(client, { type: "output", subfolder: directory, filename }, signal);
    // Another size: an engine that died while it wrote. No file: its owner put it elsewhere, which is as good.
    if ((stored?.bytes ?? file.size) === file.size) return listed;
  }
  const limit = (await client.find("/features", features, signal))?.max_upload_size ?? Number.POSITIVE_INFINITY;
  try {
    if (file.size > limit) throw tooLarge();
    const to = { type: "output" as const, subfolder: directory, filename, overwrite: listed !== undefined };
    await upload(client, to, file, signal);
  } catch (error) {
    if (!(error instanceof EngineError && error.errorClass === "bad-input")) throw error;
    throw new EngineError("model-missing", "The model is not on this server and too large to be sent there");
  }
  const until = Date.now() + listedWithinMs;
  for (;;) {
    const name = await find();
    if (name) return name;
    if (Date.now() >= until) break;
    await pause(100, signal);
  }
  throw new EngineError("model-missing", "The server does not list a model that was sent to it");
}

/** Engines on Windows list their names with back-slashes, and embeddings come without the extension. */
function isNamedBy(listed: string, file: InputFile): boolean {
  const name = listed.split(/[\\/]/).at(-1);
  return name === `${file.hash}.${file.extension}` || name === file.hash;
}

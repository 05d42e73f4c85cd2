/**
 * A training's files on the engine's host: everything of a run lies in one folder of `shared_dir`, but for the model
 * itself, which the engine writes among its own until we take it out of there.
 */
import { type Artifact, EngineError, type TrainingJob } from "../driver.ts";
import type { Disk } from "../host-files/disk.ts";
import type { HostFiles } from "../host-files/index.ts";
import { type A1111Handle, trainedName } from "./handle.ts";
import { modelFolders } from "./models.ts";

const pictureExtensions = ["png", "jpg", "jpeg", "webp"];

/** Below `shared_dir`. */
export const runFolder = (handle: A1111Handle): string => `atelier/${handle.runId}`;
const dataFolder = (handle: A1111Handle): string => `${runFolder(handle)}/data`;
const resultFile = (handle: A1111Handle): string => `${runFolder(handle)}/model.pt`;
const endMark = (handle: A1111Handle): string => `${runFolder(handle)}/ended`;
const kindFolder = (handle: A1111Handle) => (handle.trains === "hyper" ? "hypernetworks" : "embeddings");

/** Pictures, and beside each its caption. A second start overwrites what an interrupted one has left. */
export async function bringPictures(files: HostFiles, handle: A1111Handle, job: TrainingJob, signal: AbortSignal) {
  for (const { image } of job.pictures) {
    if (pictureExtensions.includes(image.extension.toLowerCase())) continue;
    throw new EngineError("bad-input", `This engine reads no pictures of the type ${image.extension}`);
  }
  await files.visit(signal, async (disk, root) => {
    if (!(await disk.find(root))) throw new Error("the directory is not there");
    const folder = `${root}/${dataFolder(handle)}`;
    await disk.makeDirectory(folder);
    for (const [index, { image, caption }] of job.pictures.entries()) {
      const name = `${folder}/${String(index + 1).padStart(4, "0")}`;
      const text = new TextEncoder().encode(caption);
      await disk.write(`${name}.${image.extension.toLowerCase()}`, image);
      await disk.write(`${name}.txt`, { size: text.length, stream: async () => new Blob([text]).stream() });
    }
  });
}

export interface TrainingTraces {
  /** The engine has begun with it at some time. */
  isBegun: boolean;
  /** It has begun, and nobody has seen it end. */
  isOpen: boolean;
  result: Artifact | null;
}

/**
 * What a training has left on the disk. When it is over and has been whole, its model is taken from among the engine's
 * own to its folder: no prompt shall find it there. May run twice.
 *
 * @param isOver the engine does not work on it any more
 */
export function readTraces(files: HostFiles, handle: A1111Handle, isOver: boolean, signal: AbortSignal) {
  return files.visit<TrainingTraces>(signal, async (disk, root) => {
    const result = `${root}/${resultFile(handle)}`;
    const artifact = (): Artifact => ({
      role: "model",
      contentType: "application/octet-stream",
      extension: "pt",
      locator: { path: resultFile(handle) },
    });
    if (await disk.find(result)) return { isBegun: true, isOpen: false, result: artifact() };
    const logs = await findLogs(disk, root, handle);
    const isBegun = logs.length > 0;
    const isOpen = isBegun && !(await disk.find(`${root}/${endMark(handle)}`));
    if (!isOver || !(await isWhole(disk, logs, handle))) return { isBegun, isOpen, result: null };
    const model = `${root}/${modelFolders[kindFolder(handle)]}/${trainedName(handle)}.pt`;
    if (!(await disk.find(model))) return { isBegun, isOpen, result: null };
    await disk.rename(model, result);
    return { isBegun: true, isOpen: false, result: artifact() };
  });
}

/** Notes that the training is over, or about to be: what the engine trains from now on is another one. */
export function markEnded(files: HostFiles, handle: A1111Handle, signal: AbortSignal): Promise<void> {
  return files.visit(signal, async (disk, root) => {
    await disk.makeDirectory(`${root}/${runFolder(handle)}`);
    await disk.write(`${root}/${endMark(handle)}`, { size: 0, stream: async () => new Blob([]).stream() });
  });
}

/** Takes away the pictures, which are somebody's own, and a model that came to nothing. */
export async function cleanUp(files: HostFiles, handle: A1111Handle, signal: AbortSignal): Promise<void> {
  await markEnded(files, handle, signal);
  await files.visit(signal, async (disk, root) => {
    const folder = `${root}/${dataFolder(handle)}`;
    for (const { name } of await disk.list(folder)) await disk.remove(`${folder}/${name}`);
    await disk.remove(`${root}/${modelFolders[kindFolder(handle)]}/${trainedName(handle)}.pt`);
  });
}

/** The engine logs below the day on which it began, by its own calendar. */
async function findLogs(disk: Disk, root: string, handle: A1111Handle): Promise<string[]> {
  const folder = `${root}/${runFolder(handle)}/log`;
  const days = (await disk.listDirectories(folder)).map((day) => `${folder}/${day}/${trainedName(handle)}`);
  const found = await Promise.all(days.map(async (path) => ((await disk.find(path)) ? [path] : [])));
  return found.flat();
}

/** Only at its last step does a training of ours save a copy; one that was interrupted saves just its model. */
async function isWhole(disk: Disk, logs: string[], handle: A1111Handle): Promise<boolean> {
  for (const log of logs) {
    for (const { name } of await disk.list(`${log}/${kindFolder(handle)}`)) {
      const step = name.match(/-(\d+)\.pt$/)?.[1];
      if (step && Number(step) >= handle.steps) return true;
    }
  }
  return false;
}

/**
 * The model files of an engine's host, through the `shared_dir` of its server: a path that is mounted on the workers,
 * or `sftp://user@host[:port]/path` with the server's key or password and its pinned host key.
 */
import type { SFTPWrapper } from "ssh2";
import { EngineError, type EngineTarget, type ErrorClass, type InputFile } from "../driver.ts";
import { failure } from "../http.ts";
import { type Trust, withSsh } from "../ssh/connection.ts";
import {
  findFile,
  listDirectories,
  listFiles,
  makeDirectory,
  readRemote,
  removeFile,
  renameFile,
  writeFile,
} from "../ssh/files.ts";
import { parseSftpUrl } from "../ssh/sftp-url.ts";
import type { Disk } from "./disk.ts";
import { localDisk, readLocal } from "./local-disk.ts";

export type ModelFolder = "loras" | "checkpoints" | "embeddings" | "hypernetworks";

/** As ComfyUI has them below its `models`; other engines name theirs otherwise. */
const usualFolders: Record<ModelFolder, string> = {
  loras: "loras",
  checkpoints: "checkpoints",
  embeddings: "embeddings",
  hypernetworks: "hypernetworks",
};

/** Ours lie in a folder of their own: what the owner of the host keeps beside it is never touched. */
const ours = "atelier";

const notThere = "It is not there or cannot be read";

export interface HostFiles {
  /**
   * Looks whether the directory is there.
   * @returns the SSH host key that was shown, to be pinned where none is
   * @throws EngineError
   */
  check(signal: AbortSignal): Promise<{ hostKey?: string }>;

  /** The files that we have put there: names as `put` returns them, sizes in bytes. @throws EngineError */
  list(folder: ModelFolder, signal: AbortSignal): Promise<{ name: string; size: number }[]>;

  /**
   * Puts a model there, unless it lies there already with the right size. Atomic, and runs twice without harm.
   * @returns its path below the folder, with `/`: `atelier/<sha256>.<extension>`
   * @throws EngineError "model-missing" when it cannot be put there, or of the connection
   */
  put(folder: ModelFolder, file: InputFile, signal: AbortSignal): Promise<string>;

  /** Takes away what `put` has put there; it is no error when it is gone. @throws EngineError */
  remove(folder: ModelFolder, name: string, signal: AbortSignal): Promise<void>;

  /**
   * For what is no model: the pictures, logs and results of a training.
   * @param work gets the host's files and the path of `shared_dir` there
   * @throws EngineError "engine-failed", or of the connection
   */
  visit<T>(signal: AbortSignal, work: (disk: Disk, root: string) => Promise<T>): Promise<T>;

  /** Streams a file by its path below `shared_dir`. @throws EngineError, also in the midst of the stream */
  read(path: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>>;
}

/**
 * Null when the server has no `shared_dir`: then nothing can be placed there by us.
 * @param folders where the engine looks for each kind, below `shared_dir`
 */
export function openHostFiles(
  target: EngineTarget,
  folders: Record<ModelFolder, string> = usualFolders,
): HostFiles | null {
  if (!target.sharedDir) return null;
  const place = placeOf(target, target.sharedDir);
  const directory = (folder: ModelFolder) => `${place.root}/${folders[folder]}/${ours}`;

  async function on<T>(signal: AbortSignal, work: Work<T>, fault: string, trust: Trust = "pinned"): Promise<T> {
    return orFault(signal, "model-missing", fault, () => place.visit(signal, trust, work));
  }

  return {
    check: (signal) =>
      on(
        signal,
        async (disk, hostKey) => {
          if (!(await disk.find(place.root))?.isDirectory) throw new EngineError("model-missing", notThere);
          return { hostKey };
        },
        notThere,
        "first-use",
      ),
    list: (folder, signal) =>
      on(
        signal,
        async (disk) => {
          const files = await disk.list(directory(folder));
          return files.filter(({ name }) => isOurs(name)).map(({ name, size }) => ({ name: `${ours}/${name}`, size }));
        },
        "The server's shared_dir cannot be read",
      ),
    async put(folder, file, signal) {
      const name = `${file.hash}.${file.extension}`;
      if (!isOurs(name)) throw new TypeError("a model is placed under the sha256 of its content");
      await on(
        signal,
        async (disk) => {
          const path = `${directory(folder)}/${name}`;
          if ((await disk.find(path))?.size === file.size) return;
          // A mount that is away looks like an empty directory of the worker's own: nothing is made there.
          if (!(await disk.find(place.root))) throw new Error("the directory is not there");
          await disk.makeDirectory(directory(folder));
          await disk.write(path, file);
        },
        "The model cannot be put into the server's shared_dir",
      );
      return `${ours}/${name}`;
    },
    async remove(folder, name, signal) {
      const [prefix, file = "", ...more] = name.split("/");
      if (prefix !== ours || more.length > 0 || !isOurs(file)) throw new TypeError("only what was put is removed");
      await on(
        signal,
        (disk) => disk.remove(`${directory(folder)}/${file}`),
        "The model cannot be removed from the server's shared_dir",
      );
    },
    visit: (signal, work) =>
      orFault(signal, "engine-failed", "The server's shared_dir cannot be used", () =>
        place.visit(signal, "pinned", (disk) => work(disk, place.root)),
      ),
    read: (path, signal) =>
      orFault(signal, "engine-failed", "The engine no longer has the result", () => place.read(path, signal)),
  };
}

/** Runs `work`, whose errors of the file system become an EngineError of that class and message. */
async function orFault<T>(signal: AbortSignal, errorClass: ErrorClass, message: string, work: () => Promise<T>) {
  try {
    signal.throwIfAborted();
    return await work();
  } catch (error) {
    if (error instanceof EngineError || signal.aborted) throw failure(error, signal);
    throw new EngineError(errorClass, message, { cause: error });
  }
}

/** The only names that we ever build a path with. */
function isOurs(name: string): boolean {
  return /^[0-9a-f]{64}\.[A-Za-z0-9]{1,16}$/.test(name);
}

type Work<T> = (disk: Disk, hostKey?: string) => Promise<T>;

interface Place {
  root: string;
  visit<T>(signal: AbortSignal, trust: Trust, work: Work<T>): Promise<T>;
  /** @param path below the root */
  read(path: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>>;
}

function placeOf(target: EngineTarget, sharedDir: string): Place {
  const url = parseSftpUrl(sharedDir);
  if (!url) {
    const root = sharedDir.replace(/\/+$/, "");
    return {
      root,
      visit: (signal, _trust, work) => work(localDisk(signal)),
      read: (path, signal) => readLocal(`${root}/${path}`, signal),
    };
  }
  const { password, privateKey, hostKey } = target;
  const address = { ...url, password, privateKey, hostKey };
  return {
    root: url.path,
    visit: (signal, trust, work) =>
      withSsh(address, signal, trust, (ssh) => ssh.sftp(signal, (sftp) => work(sftpDisk(sftp), ssh.hostKey))),
    read: (path, signal) => readRemote(address, `${url.path}/${path}`, signal),
  };
}

const sftpDisk = (sftp: SFTPWrapper): Disk => ({
  find: (path) => findFile(sftp, path),
  list: (path) => listFiles(sftp, path),
  listDirectories: (path) => listDirectories(sftp, path),
  makeDirectory: (path) => makeDirectory(sftp, path),
  write: (path, file) => writeFile(sftp, path, file),
  rename: (from, to) => renameFile(sftp, from, to),
  remove: (path) => removeFile(sftp, path),
});

/**
 * The model files of an engine's host, through the `shared_dir` of its server: a path that is mounted on the workers,
 * or `sftp://user@host[:port]/path` with the server's key or password and its pinned host key.
 */
import type { SFTPWrapper } from "ssh2";
import { EngineError, type EngineTarget, type InputFile } from "../driver.ts";
import { failure } from "../http.ts";
import { type Trust, withSsh } from "../ssh/connection.ts";
import { findFile, listFiles, makeDirectory, removeFile, writeFile } from "../ssh/files.ts";
import { parseSftpUrl } from "../ssh/sftp-url.ts";
import type { Disk } from "./disk.ts";
import { localDisk } from "./local-disk.ts";

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
    try {
      signal.throwIfAborted();
      return await place.visit(signal, trust, work);
    } catch (error) {
      if (error instanceof EngineError || signal.aborted) throw failure(error, signal);
      throw new EngineError("model-missing", fault, { cause: error });
    }
  }

  return {
    check: (signal) =>
      on(
        signal,
        async (disk, hostKey) => {
          if (!(await disk.find(place.root))?.isDirectory) throw new Error("the directory is not there");
          return { hostKey };
        },
        "The shared_dir is not there or cannot be read",
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
  };
}

/** The only names that we ever build a path with. */
function isOurs(name: string): boolean {
  return /^[0-9a-f]{64}\.[A-Za-z0-9]{1,16}$/.test(name);
}

type Work<T> = (disk: Disk, hostKey?: string) => Promise<T>;

interface Place {
  root: string;
  visit<T>(signal: AbortSignal, trust: Trust, work: Work<T>): Promise<T>;
}

function placeOf(target: EngineTarget, sharedDir: string): Place {
  const url = parseSftpUrl(sharedDir);
  if (!url) {
    return {
      root: sharedDir.replace(/\/+$/, ""),
      visit: (signal, _trust, work) => work(localDisk(signal)),
    };
  }
  const { password, privateKey, hostKey } = target;
  return {
    root: url.path,
    visit: (signal, trust, work) =>
      withSsh({ ...url, password, privateKey, hostKey }, signal, trust, (ssh) =>
        ssh.sftp(signal, (sftp) => work(sftpDisk(sftp), ssh.hostKey)),
      ),
  };
}

const sftpDisk = (sftp: SFTPWrapper): Disk => ({
  find: (path) => findFile(sftp, path),
  list: (path) => listFiles(sftp, path),
  makeDirectory: (path) => makeDirectory(sftp, path),
  write: (path, file) => writeFile(sftp, path, file),
  remove: (path) => removeFile(sftp, path),
});

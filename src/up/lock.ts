/** One `up` for each DATA_DIR, and the record of what it started, for the next one to clear away. */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { endProcess, isAlive, ownProcess, type ProcessId } from "../db/process-table.ts";
import { UpError } from "./up-error.ts";

interface Holder extends ProcessId {
  children: ProcessId[];
}

export interface Lock {
  /** Writes down which children run now. */
  record(children: ProcessId[]): void;
  /** Gives the directory free. May run twice. */
  release(): void;
}

/** Children of a killed `up` notice its end and stop by themselves; one that hangs gets no more time than this. */
const patience = [
  ["SIGTERM", 5_000],
  ["SIGKILL", 1_000],
] as const;

/**
 * Takes `dataDir` (made if need be) for this process. What a killed holder left running is ended first.
 *
 * @throws UpError when it cannot be written, or a living process holds it
 */
export async function takeLock(dataDir: string): Promise<Lock> {
  const path = join(dataDir, "up.json");
  const own = join(dataDir, `up.${process.pid}.json`);
  const me: Holder = { ...ownProcess(), children: [] };
  try {
    mkdirSync(dataDir, { recursive: true });
    writeFileSync(own, JSON.stringify(me), { mode: 0o600 });
  } catch (error) {
    throw new UpError(`DATA_DIR ${dataDir} cannot be written: ${explain(error)}`);
  }
  let children: ProcessId[];
  try {
    children = claim(path, own, dataDir);
  } finally {
    rmSync(own, { force: true });
  }
  for (const child of children) await endProcess(child, patience);
  let isHeld = true;
  return {
    record(running) {
      if (!isHeld) return;
      try {
        writeFileSync(own, JSON.stringify({ ...me, children: running }), { mode: 0o600 });
        renameSync(own, path);
      } catch {
        // A full disk, a deleted directory: the children notice our end all the same, this only saves them a wait.
      }
    },
    release() {
      if (isHeld) rmSync(path, { force: true });
      isHeld = false;
    },
  };
}

/** Returns the children of the dead holder before us. A link appears whole or not at all, and never twice. */
function claim(path: string, own: string, dataDir: string): ProcessId[] {
  let children: ProcessId[] = [];
  for (;;) {
    try {
      linkSync(own, path);
      return children;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
        throw new UpError(`DATA_DIR ${dataDir} cannot be written: ${explain(error)}`);
      }
    }
    const holder = read(path);
    if (holder && isAlive(holder)) {
      throw new UpError(`DATA_DIR ${dataDir} is in use by another \`up\`, process ${holder.pid}`);
    }
    // Moved away rather than deleted: if somebody else took the lock since we looked, what we hold is theirs.
    const aside = `${own}.stale`;
    try {
      renameSync(path, aside);
    } catch {
      continue; // gone meanwhile
    }
    const moved = read(aside);
    if (moved && isAlive(moved)) linkSync(aside, path);
    else children = moved?.children ?? [];
    rmSync(aside);
  }
}

/** Null for a file that is gone or broken, which holds nothing. */
function read(path: string): Holder | null {
  try {
    const holder = JSON.parse(readFileSync(path, "utf8"));
    return typeof holder?.pid === "number" && Array.isArray(holder.children) ? holder : null;
  } catch {
    return null;
  }
}

function explain(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EEXIST" || code === "ENOTDIR") return "it, or a part of its path, is not a directory";
  if (code === "EACCES" || code === "EPERM") return "permission denied";
  if (code === "EROFS") return "the file system is read-only";
  return message;
}

/**
 * The store on a local disk: one file per key below a directory. For one machine, or several on a shared file system.
 * node:fs rather than Bun.write, which can neither sync nor create exclusively.
 */
import { randomUUID } from "node:crypto";
import { link, mkdir, open, readdir, readFile, rename, rm, stat, unlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { Problem } from "../problems.ts";
import { checkKey, isKey } from "./keys.ts";
import { onDisk, spool, streamFile, sweepTemporary, tooLarge } from "./spool.ts";
import type { Storage } from "./storage.ts";

type Body = Parameters<Storage["put"]>[1];

/** Made when first written to; opening touches nothing. The directory belongs to the store alone. */
export function createDiskStorage(directory: string): Storage {
  const temporaryDirectory = join(directory, ".tmp"); // the same file system, so that a rename publishes at once
  const place = (key: string) => join(directory, key);

  let prepared: Promise<void> | null = null;
  function prepare(): Promise<void> {
    prepared ??= mkdir(temporaryDirectory, { recursive: true }).then(() => sweepTemporary(temporaryDirectory));
    return prepared.catch((error) => {
      prepared = null; // the disk may be back at the next try
      throw error;
    });
  }

  async function temporaryPath(): Promise<string> {
    await onDisk(prepare);
    return join(temporaryDirectory, randomUUID());
  }

  /** A file of ours on the same file system is linked rather than copied: a model may have 8 GB. */
  async function bringIn(body: Body, path: string, maxBytes?: number): Promise<{ size: number; hash: string }> {
    if (!("path" in body)) return spool(body instanceof Uint8Array ? once(body) : body, path, maxBytes);
    if (body.size > (maxBytes ?? body.size)) throw tooLarge(maxBytes ?? 0);
    const isLinked = await link(body.path, path).then(
      () => true,
      () => false, // another file system, or one without links
    );
    return isLinked ? body : spool(streamFile(body.path, 0, body.size - 1), path);
  }

  /** Both the file's name and the directories above it must be on the disk before we say that it is stored. */
  async function publish(from: string, key: string): Promise<void> {
    const parent = dirname(place(key));
    const made = await mkdir(parent, { recursive: true });
    await rename(from, place(key));
    await syncDirectory(parent);
    if (made) await syncDirectory(dirname(made));
  }

  return {
    async put(key, body, { maxBytes }) {
      checkKey(key);
      const path = await temporaryPath();
      const { size, hash } = await bringIn(body, path, maxBytes);
      try {
        await onDisk(() => publish(path, key));
      } catch (error) {
        await rm(path, { force: true });
        throw error;
      }
      return { size, hash };
    },

    async get(key, range) {
      if (!isKey(key)) return null;
      const found = await onDisk(() => stat(place(key)).catch(nullWhenMissing));
      if (!found?.isFile()) return null;
      const start = range?.start ?? 0;
      const end = Math.min(range?.end ?? found.size - 1, found.size - 1);
      return { size: found.size, stream: () => streamFile(place(key), start, end) };
    },

    async delete(key) {
      // Not rm: for a path below a file, Bun 1.4.5 answers EFAULT where the system says ENOTDIR.
      if (isKey(key)) await onDisk(() => unlink(place(key)).catch(nullWhenMissing));
    },

    async *list() {
      const found = await onDisk(() =>
        readdir(directory, { recursive: true, withFileTypes: true }).catch((error) => nullWhenMissing(error) ?? []),
      );
      const keys = found
        .filter((entry) => entry.isFile())
        .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
        .filter(isKey); // our own dotted files are no objects
      for (const key of keys.sort()) {
        const file = await onDisk(() => stat(place(key)).catch(nullWhenMissing));
        if (file) yield { key, size: file.size, modifiedAt: file.mtime };
      }
    },

    async move(from, to) {
      checkKey(from);
      checkKey(to);
      await onDisk(() => publish(place(from), to)).catch((error) => {
        throw error.cause?.code === "ENOENT" ? new Problem("not-found", { cause: error }) : error;
      });
    },

    async signedUrl() {
      return null;
    },

    async signedUpload() {
      return null;
    },

    async id() {
      const path = join(directory, ".id");
      const known = await onDisk(() => readFile(path, "utf8").catch(nullWhenMissing));
      if (known) return known.trim();
      // Written aside and then linked: link fails where a name exists, so the first of several processes wins, and
      // nobody ever reads half an id, as they could from a file created with "wx" and then filled.
      const draft = await temporaryPath();
      await onDisk(async () => {
        await writeFile(draft, `${randomUUID()}\n`, { flush: true });
        await link(draft, path).catch((error) => {
          if (error.code !== "EEXIST") throw error;
        });
        await rm(draft, { force: true });
        await syncDirectory(directory);
      });
      return (await onDisk(() => readFile(path, "utf8"))).trim();
    },
  };
}

async function* once(bytes: Uint8Array) {
  yield bytes;
}

/** A key below what is a file (`a/b` where `a` is stored), or above one, does not exist either. */
function nullWhenMissing(error: NodeJS.ErrnoException): null {
  if (["ENOENT", "ENOTDIR", "EISDIR"].includes(error.code ?? "")) return null;
  throw error;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Bodies of unknown length to files: counted, hashed and synced while they stream, never held in memory. */
import { createHash } from "node:crypto";
import { type FileHandle, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { Problem } from "../problems.ts";

/** A whole file on the local disk, with what was learnt while it was written. */
export interface SpooledFile {
  path: string;
  size: number;
  /** The sha256 of the bytes, lower-case hex. */
  hash: string;
}

/**
 * Writes a body to a new file and syncs it, so that a rename afterwards publishes either everything or nothing. When
 * anything fails the file is removed and the rest of the body is cancelled. An error of the body itself comes through
 * as it is, so that the caller can tell a broken upload from a broken disk.
 *
 * @throws Problem "too-large" when the body is longer than `maxBytes`; "storage-unavailable" when the disk refuses
 */
export async function spool(
  body: AsyncIterable<Uint8Array>,
  path: string,
  maxBytes = Number.POSITIVE_INFINITY,
): Promise<SpooledFile> {
  const file = await onDisk(() => open(path, "wx"));
  let isWhole = false;
  try {
    const hash = createHash("sha256");
    let size = 0;
    for await (const chunk of body) {
      size += chunk.length;
      if (size > maxBytes) throw tooLarge(maxBytes);
      hash.update(chunk);
      await onDisk(() => writeAll(file, chunk));
    }
    await onDisk(() => file.sync());
    isWhole = true;
    return { path, size, hash: hash.digest("hex") };
  } finally {
    await file.close();
    if (!isWhole) await rm(path, { force: true });
  }
}

/** One write may take only a part of what it was given: on a disk that fills up, the next one then says so. */
async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    done += (await file.write(chunk, done, chunk.length - done)).bytesWritten;
  }
}

/**
 * Streams the bytes `start` to `end` (inclusive) of a file. It is opened at the first read, so that a stream nobody
 * reads holds no descriptor, and closed at the end or when the reader cancels.
 */
export function streamFile(path: string, start: number, end: number): ReadableStream<Uint8Array> {
  const chunkBytes = 256 * 1024;
  let file: FileHandle | null = null;
  let position = start;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          file ??= await open(path, "r");
          const wanted = Math.min(chunkBytes, end + 1 - position);
          const { bytesRead, buffer } =
            wanted > 0 ? await file.read(new Uint8Array(wanted), 0, wanted, position) : none;
          if (bytesRead < 1 && wanted > 0) throw new Error(`${path} ends before byte ${position}`);
          position += bytesRead;
          if (bytesRead > 0) controller.enqueue(buffer.subarray(0, bytesRead));
          if (position <= end) return;
          await file.close();
          controller.close();
        } catch (error) {
          await file?.close().catch(() => undefined);
          controller.error(unavailable(error));
        }
      },
      cancel: () => file?.close(),
    },
    { highWaterMark: 0 },
  );
}
const none = { bytesRead: 0, buffer: new Uint8Array(0) };

/**
 * Removes what a process that died halfway left in a directory of temporary files. A day is longer than any upload
 * may take, so that nothing in use is hit.
 */
export async function sweepTemporary(directory: string, olderThanMs = 24 * 60 * 60 * 1000): Promise<void> {
  for (const name of await readdir(directory)) {
    const path = join(directory, name);
    const age = Date.now() - ((await stat(path).catch(() => null))?.mtimeMs ?? Date.now());
    if (age > olderThanMs) await rm(path, { force: true, recursive: true });
  }
}

/** Runs what touches the disk; whatever the system refuses (ENOSPC, EACCES, EIO) is the store's failure. */
export async function onDisk<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof Problem ? error : unavailable(error);
  }
}

/** The store's failure: the cause is for the log, the caller learns only that it is not their fault. */
export function unavailable(cause: unknown): Problem {
  return new Problem("storage-unavailable", { cause, headers: { "Retry-After": "10" } });
}

export function tooLarge(maxBytes: number): Problem {
  return new Problem("too-large", { detail: `At most ${maxBytes} bytes are accepted.` });
}

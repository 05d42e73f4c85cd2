/**
 * Files on their way: begun by a row in `uploads`, sent straight to an object store (in one) or through us (in parts,
 * so that a broken connection loses little), and used by nobody before they are completed.
 */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Sql } from "../db/client.ts";
import { isProblem, Problem } from "../problems.ts";
import { modelType } from "./models.ts";
import { newKey, type Stored } from "./records.ts";
import { onDisk, type SpooledFile, spool } from "./spool.ts";
import type { Storage } from "./storage.ts";

export interface PendingUpload {
  key: string;
  user_id: number;
  /** Null: it comes in parts, and its bytes say what it is. */
  content_type: string | null;
  size: number;
  received: number;
  parts: string[];
  file_key: string | null;
  expires_at: string;
}

/** A part that a connection broke off from is kept as far as it came; so much may be lost when a process dies. */
const partBytes = 64 * 1024 * 1024;
const maxParts = 10_000;

/** @param lastsSeconds how long there is to send it all */
export async function beginUpload(
  sql: Sql,
  {
    userId,
    contentType = null,
    size,
    lastsSeconds,
  }: {
    userId: number;
    contentType?: string | null;
    size: number;
    lastsSeconds: number;
  },
): Promise<PendingUpload> {
  const [row] = await sql<PendingUpload[]>`
    insert into uploads (key, user_id, content_type, size, expires_at)
    values (${newKey("upload")}, ${userId}, ${contentType}, ${size}, now() + make_interval(secs => ${lastsSeconds}))
    returning *
  `;
  return row as PendingUpload;
}

/** Null when there is none, it is somebody else's, or its time is over and it was not completed. */
export async function findUpload(sql: Sql, userId: number | null, key: string): Promise<PendingUpload | null> {
  const [row] = await sql<PendingUpload[]>`
    select *
    from uploads
    where key = ${key}
      and user_id = ${userId}
      and (expires_at > now() or file_key is not null)
  `;
  return row ?? null;
}

export function pendingKey({ key }: Pick<PendingUpload, "key">): string {
  return `pending/${key}`;
}

/**
 * Takes what a request brings of an upload, from `upload.received` on. What came of a broken body is kept, so that the
 * sender goes on from there.
 *
 * @returns how much there is now
 * @throws Problem "upload-offset" when another request went on meanwhile; "too-large" beyond the upload's size
 */
export async function receiveParts(
  sql: Sql,
  storage: Storage,
  upload: PendingUpload,
  body: ReadableStream<Uint8Array>,
  directory: string,
): Promise<number> {
  await onDisk(() => mkdir(directory, { recursive: true }));
  const source = createSource(body);
  let { received } = upload;
  let parts = upload.parts.length;
  try {
    while (!(await source.isAtEnd())) {
      if (received === upload.size)
        throw new Problem("too-large", { detail: `The upload ends at ${upload.size} bytes.` });
      if (parts === maxParts) throw new Problem("invalid", { detail: "It came in too many parts; send larger ones." });
      const file = await spool(source.take(Math.min(partBytes, upload.size - received)), join(directory, randomUUID()));
      received = await keepPart(sql, storage, { ...upload, received }, file);
      parts += 1;
    }
  } finally {
    await source.cancel();
  }
  return received;
}

async function keepPart(sql: Sql, storage: Storage, upload: PendingUpload, file: SpooledFile): Promise<number> {
  // A name of its own: of two senders that went on from the same place, the slower must not overwrite the other.
  const key = `${pendingKey(upload)}/${upload.received}-${randomUUID()}`;
  try {
    await storage.put(key, file, { contentType: "application/octet-stream" });
    const [row] = await sql<{ received: number }[]>`
      update uploads
      set received = received + ${file.size}, parts = parts || ${key}::text
      where key = ${upload.key}
        and received = ${upload.received}
        and file_key is null
      returning received
    `;
    if (!row) throw new Problem("upload-offset", { detail: "Another request goes on with this upload." });
    return row.received;
  } catch (error) {
    // As with every row: a connection that broke does not say whether the part counts.
    if (!isProblem(error, "database-unavailable")) await storage.delete(key);
    throw error;
  } finally {
    await rm(file.path, { force: true });
  }
}

/** A body to take from piece by piece. One that breaks off simply ends. */
function createSource(body: ReadableStream<Uint8Array>) {
  const reader = body.getReader();
  let rest: Uint8Array = new Uint8Array();
  let isOver = false;
  const fill = async () => {
    while (rest.length === 0 && !isOver) {
      const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
      isOver = done;
      rest = value ?? rest;
    }
  };
  return {
    async isAtEnd(): Promise<boolean> {
      await fill();
      return rest.length === 0;
    },
    async *take(bytes: number): AsyncGenerator<Uint8Array> {
      for (let left = bytes; left > 0; ) {
        await fill();
        if (rest.length === 0) return;
        const chunk = rest.subarray(0, left);
        rest = rest.subarray(chunk.length);
        left -= chunk.length;
        yield chunk;
      }
    },
    cancel: () => reader.cancel().catch(() => undefined),
  };
}

/**
 * Brings an upload to the local disk, to be checked. One that was sent directly is moved first to a key that its
 * sender knows no way to: they may write to the pending one for an hour, also while we read.
 *
 * @throws Problem "upload-incomplete"
 */
export async function collectUpload(
  storage: Storage,
  upload: PendingUpload,
  path: string,
): Promise<{ file: SpooledFile; stored: Stored | null }> {
  if (upload.content_type === null) {
    if (upload.received < upload.size) throw incomplete(`${upload.received} of ${upload.size} bytes are here.`);
    return { file: await spool(streamAll(storage, upload.parts), path), stored: null };
  }
  const key = newKey(upload.content_type === modelType ? "safetensors" : "received");
  await storage.move(pendingKey(upload), key).catch((error) => {
    throw error instanceof Problem && error.code === "not-found" ? incomplete("Nothing was sent yet.") : error;
  });
  try {
    const file = await spool(streamAll(storage, [key]), path, upload.size);
    if (file.size < upload.size) throw incomplete(`Only ${file.size} of ${upload.size} bytes were sent.`);
    return { file, stored: { key, hash: file.hash, size: file.size, isStored: true } };
  } catch (error) {
    await giveBack(storage, upload, key, error);
    throw error;
  }
}

/**
 * What was moved away to be checked: gone when it was at fault, back in its place when it was not, so that it need not
 * be sent again.
 */
export async function giveBack(storage: Storage, upload: PendingUpload, key: string, error: unknown): Promise<void> {
  if (error instanceof Problem && error.status < 500) await storage.delete(key);
  else await storage.move(key, pendingKey(upload));
}

async function* streamAll(storage: Storage, keys: string[]): AsyncGenerator<Uint8Array> {
  for (const key of keys) {
    const object = await storage.get(key);
    if (!object) throw new Problem("storage-unavailable", { cause: new Error(`the store has lost ${key}`) });
    yield* object.stream();
  }
}

/** Removes what was received. */
export async function deletePending(storage: Storage, upload: PendingUpload): Promise<void> {
  for (const key of upload.content_type === null ? upload.parts : [pendingKey(upload)]) await storage.delete(key);
}

function incomplete(detail: string): Problem {
  return new Problem("upload-incomplete", { detail });
}

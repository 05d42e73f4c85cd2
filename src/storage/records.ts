/** A stored file is bytes in the store and a row in `files`: made and removed together. */
import { randomBytes } from "node:crypto";
import type { Sql } from "../db/client.ts";
import type { Picture } from "./pictures.ts";
import type { Storage } from "./storage.ts";

export interface FileRecord {
  key: string;
  hash: string;
  size: number;
}

interface NewFile {
  userId: number;
  kind: "picture" | "model";
  contentType: string;
  /** Without the dot. */
  extension: string;
  width?: number;
  height?: number;
}

/**
 * Stores bytes and their row. The same bytes are kept once per owner: the older file is answered then.
 * @throws Problem "storage-unavailable"
 */
export async function keepFile(
  sql: Sql,
  storage: Storage,
  file: NewFile,
  body: ReadableStream<Uint8Array> | Uint8Array,
): Promise<FileRecord> {
  const key = `${randomBytes(18).toString("base64url")}.${file.extension}`;
  const { hash, size } = await storage.put(key, body, { contentType: file.contentType });
  try {
    const row = {
      key,
      user_id: file.userId,
      kind: file.kind,
      hash,
      size,
      content_type: file.contentType,
      width: file.width ?? null,
      height: file.height ?? null,
    };
    const [kept] = await sql<{ key: string }[]>`
      insert into files ${sql(row)}
      on conflict (user_id, hash) do update set hash = excluded.hash
      returning key
    `;
    if (kept?.key !== key) await storage.delete(key);
    return { key: kept?.key ?? key, hash, size };
  } catch (error) {
    await storage.delete(key);
    throw error;
  }
}

export function keepPicture(sql: Sql, storage: Storage, userId: number, picture: Picture): Promise<FileRecord> {
  const { bytes, contentType, extension, width, height } = picture;
  return keepFile(sql, storage, { userId, kind: "picture", contentType, extension, width, height }, bytes);
}

/** Removes those of the files that nothing refers to, the row first: bytes without a row are found again by key. */
export async function deleteUnused(sql: Sql, storage: Storage, keys: string[]): Promise<void> {
  await sql`delete from files where key = any (${keys}::text[]) and not is_file_used(key)`;
  const kept = await sql<{ key: string }[]>`select key from files where key = any (${keys}::text[])`;
  for (const key of keys) {
    if (!kept.some((row) => row.key === key)) await storage.delete(key);
  }
}

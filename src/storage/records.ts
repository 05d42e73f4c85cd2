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

/** Runs the writing of a file's row, which answers its key, so that a caller can put it into a transaction of its own. */
export type Inside = (write: (sql: Sql) => Promise<string>) => Promise<string>;

/**
 * Stores bytes and their row. The same bytes are kept once per owner: the older file is answered then.
 *
 * @param inside a transaction begins only here, since the store may be slow; when it throws, the bytes go again
 * @throws Problem "storage-unavailable"
 */
export async function keepFile(
  sql: Sql,
  storage: Storage,
  file: NewFile,
  body: ReadableStream<Uint8Array> | Uint8Array,
  inside: Inside = (write) => write(sql),
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
    const kept = await inside(async (sql) => {
      const [written] = await sql<{ key: string }[]>`
        insert into files ${sql(row)}
        on conflict (user_id, hash) do update set hash = excluded.hash
        returning key
      `;
      return written?.key ?? key;
    });
    if (kept !== key) await storage.delete(key);
    return { key: kept, hash, size };
  } catch (error) {
    await storage.delete(key);
    throw error;
  }
}

export function keepPicture(
  sql: Sql,
  storage: Storage,
  userId: number,
  picture: Picture,
  inside?: Inside,
): Promise<FileRecord> {
  const { bytes, contentType, extension, width, height } = picture;
  return keepFile(sql, storage, { userId, kind: "picture", contentType, extension, width, height }, bytes, inside);
}

/** Removes those of the files that nothing refers to, the row first: bytes without a row are found again by key. */
export async function deleteUnused(sql: Sql, storage: Storage, keys: string[]): Promise<void> {
  await sql`delete from files where key = any (${keys}::text[]) and not is_file_used(key)`;
  const kept = await sql<{ key: string }[]>`select key from files where key = any (${keys}::text[])`;
  for (const key of keys) {
    if (!kept.some((row) => row.key === key)) await storage.delete(key);
  }
}

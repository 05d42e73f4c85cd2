/** A stored file is bytes in the store and a row in `files`: made and removed together. */
import { randomBytes } from "node:crypto";
import type { Sql } from "../db/client.ts";
import { addJob } from "../db/queue.ts";
import { isProblem } from "../problems.ts";
import { thumbnailEdges, thumbnailKey } from "./keys.ts";
import type { Picture } from "./pictures.ts";
import type { SpooledFile } from "./spool.ts";
import type { Storage } from "./storage.ts";
import { makeThumbnails, type Thumbnails, thumbnailType } from "./thumbnails.ts";

export interface FileRecord {
  key: string;
  hash: string;
  size: number;
}

export interface NewFile {
  userId: number;
  kind: "picture" | "model";
  contentType: string;
  /** Without the dot. */
  extension: string;
  width?: number;
  height?: number;
  /** Of a model: what its header says. */
  metadata?: Record<string, string>;
}

/** Bytes that lie in the store already, under the key that their row shall have. */
export interface Stored extends FileRecord {
  isStored: true;
}

/** Runs the writing of a file's row, which answers its key, so that a caller can put it into a transaction of its own. */
export type Inside = (write: (sql: Sql) => Promise<string>) => Promise<string>;

export interface Keeping {
  /** A transaction begins only here, since the store may be slow; when it is undone, the bytes go again. */
  inside?: Inside;
  thumbnails?: Thumbnails;
  /** The owner has sent it and is about to use it. */
  isUpload?: boolean;
}

/** Random, so that it tells nothing and is never used again. */
export function newKey(extension: string): string {
  return `${randomBytes(18).toString("base64url")}.${extension}`;
}

/**
 * Stores bytes and their row. The same bytes are kept once per owner: the older file is answered then.
 *
 * @throws Problem "storage-unavailable"
 */
export async function keepFile(
  sql: Sql,
  storage: Storage,
  file: NewFile,
  body: ReadableStream<Uint8Array> | Uint8Array | SpooledFile | Stored,
  { inside = (write) => write(sql), thumbnails, isUpload = false }: Keeping = {},
): Promise<FileRecord> {
  const key = "isStored" in body ? body.key : newKey(file.extension);
  try {
    const { contentType } = file;
    const { hash, size } = "isStored" in body ? body : await storage.put(key, body, { contentType });
    for (const { edge, bytes } of thumbnails?.webps ?? []) {
      await storage.put(thumbnailKey(key, edge), bytes, { contentType: thumbnailType });
    }
    const row = {
      key,
      user_id: file.userId,
      kind: file.kind,
      hash,
      size,
      content_type: contentType,
      width: file.width ?? null,
      height: file.height ?? null,
      thumbhash: thumbnails?.thumbhash ?? null,
      metadata: sql.json(file.metadata ?? {}),
    };
    const kept = await inside(async (sql) => {
      const [written] = await sql<{ key: string }[]>`
        insert into files ${sql(row)}
        on conflict (user_id, hash) do update
        set uploaded_again_at = ${isUpload ? sql`clock_timestamp()` : sql`files.uploaded_again_at`}
        returning key
      `;
      return written?.key ?? key;
    });
    if (kept !== key) await deleteObjects(storage, key);
    return { key: kept, hash, size };
  } catch (error) {
    // A connection that broke does not say whether the row was committed. Bytes too many are the nightly sweep's, bytes
    // too few are lost. And what was stored before is whoever stored it to say.
    const isCertain = !isProblem(error, "database-unavailable");
    if (isCertain && !("isStored" in body)) await deleteObjects(storage, key);
    throw error;
  }
}

export async function keepPicture(
  sql: Sql,
  storage: Storage,
  userId: number,
  picture: Picture,
  keeping: Omit<Keeping, "thumbnails"> = {},
): Promise<FileRecord> {
  const { bytes, contentType, extension, width, height } = picture;
  const file = { userId, kind: "picture", contentType, extension, width, height } as const;
  return keepFile(sql, storage, file, bytes, { ...keeping, thumbnails: await makeThumbnails(bytes) });
}

/** Held shared while objects are deleted, alone while a backup copies them. */
export const deletionLock = "hashtextextended('atelier deletes files', 0)";

/**
 * Removes those of the files that nothing refers to, the rows first: objects without a row are found again by key.
 *
 * @param isOrdered by the owner. Otherwise what was uploaded again within the hour stays: whoever deletes a data set
 *   and makes another of the same pictures has no other hold on them
 * @returns how many are gone
 */
export async function deleteUnused(sql: Sql, storage: Storage, keys: string[], isOrdered = false): Promise<number> {
  if (keys.length === 0) return 0;
  await sql.begin(async (tx) => {
    // Whoever makes a reference holds the row until it is made. Locked first and judged by a later statement: one
    // alone would judge by what it saw before it waited.
    await tx`select from files where key = any (${keys}::text[]) order by key for update`;
    await tx`
      delete from files
      where key = any (${keys}::text[])
        and not is_file_used(key)
        and (${isOrdered} or uploaded_again_at is null or uploaded_again_at < now() - interval '1 hour')
    `;
  });
  const kept = await sql<{ key: string }[]>`select key from files where key = any (${keys}::text[])`;
  const gone = new Set(keys).difference(new Set(kept.map(({ key }) => key)));
  await sql.begin(async (tx) => {
    const [lock] = await tx<{ is_free: boolean }[]>`
      select pg_try_advisory_xact_lock_shared(${tx.unsafe(deletionLock)}) as is_free
    `;
    // A backup under way still copies what its snapshot shows.
    if (lock?.is_free) for (const key of gone) await deleteObjects(storage, key);
    else if (gone.size > 0)
      await addJob(tx as unknown as Sql, "delete-files", { keys: [...gone] }, { delaySeconds: 60 });
  });
  return gone.size;
}

/** A file's bytes and whatever was made of them. */
export async function deleteObjects(storage: Storage, key: string): Promise<void> {
  await storage.delete(key);
  if (!/\.(jpg|png|webp|avif)$/.test(key)) return;
  for (const edge of thumbnailEdges) await storage.delete(thumbnailKey(key, edge));
}

/** Model files as we keep them: byte for byte as given, and but for pickles once their header has proved what they are. */
import type { Sql } from "../db/client.ts";
import type { ModelMetadata } from "./claims.ts";
import { type FileRecord, type Keeping, keepFile, type Stored } from "./records.ts";
import { readSafetensorsHeader } from "./safetensors.ts";
import type { SpooledFile } from "./spool.ts";
import type { Storage } from "./storage.ts";

export const modelType = "application/octet-stream";

/**
 * Checks a whole .safetensors file on disk and keeps it.
 *
 * @param stored where the same bytes lie in the store already
 * @throws Problem "unsupported-media-type" when it is no valid one; "storage-unavailable"
 */
export async function keepModelFile(
  sql: Sql,
  storage: Storage,
  userId: number,
  file: SpooledFile,
  { stored, ...keeping }: Omit<Keeping, "thumbnails"> & { stored?: Stored } = {},
): Promise<FileRecord> {
  const { metadata } = await readSafetensorsHeader(file.path);
  const row = { userId, kind: "model", contentType: modelType, extension: "safetensors" } as const;
  return keepFile(sql, storage, { ...row, metadata: selectMetadata(metadata) }, stored ?? file, keeping);
}

/**
 * Keeps a pickle as it is, unread: reading one runs what it says. Only engines of ours make them, from a training; as an
 * upload none is taken.
 */
export function keepPickle(sql: Sql, storage: Storage, userId: number, file: SpooledFile): Promise<FileRecord> {
  return keepFile(sql, storage, { userId, kind: "model", contentType: modelType, extension: "pt" }, file);
}

const maxText = 1_000;
const maxBytes = 16_000;

/** What is worth showing: trainers also write whole tables of every caption into it, as one text. */
export function selectMetadata(metadata: ModelMetadata): ModelMetadata {
  const selected: ModelMetadata = {};
  let bytes = 0;
  for (const [name, text] of Object.entries(metadata)) {
    const length = Buffer.byteLength(name) + Buffer.byteLength(text);
    // PostgreSQL's jsonb takes neither.
    const isStorable = `${name}${text}`.isWellFormed() && !`${name}${text}`.includes("\0");
    if (!isStorable || text.length > maxText || bytes + length > maxBytes) continue;
    bytes += length;
    selected[name] = text;
  }
  return selected;
}

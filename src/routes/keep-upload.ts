/** What was uploaded, however it came: checked, kept, counted against the quota, and answered. */
import type { Config } from "../config.ts";
import type { Sql } from "../db/client.ts";
import type { Answer } from "../rest/answer.ts";
import type { Context } from "../rest/define.ts";
import type { Once } from "../rest/idempotency.ts";
import { transaction } from "../rest/write.ts";
import { thumbnailKey } from "../storage/keys.ts";
import { keepModelFile } from "../storage/models.ts";
import { readPicture } from "../storage/pictures.ts";
import { judgeQuota } from "../storage/quota.ts";
import { type FileRecord, type Inside, keepPicture, type Stored } from "../storage/records.ts";
import type { SpooledFile } from "../storage/spool.ts";
import type { Storage } from "../storage/storage.ts";
import type { UploadKind } from "../storage/upload.ts";

export interface FileDeps {
  storage: Storage;
  temporaryDirectory: string;
  config: Pick<Config, "userQuotaBytes">;
}

export interface FileRow extends FileRecord {
  user_id: number | null;
  kind: "picture" | "model";
  content_type: string;
  width: number | null;
  height: number | null;
  thumbhash: string | null;
  metadata: Record<string, string>;
  created_at: string;
}

export interface Received {
  file: SpooledFile;
  kind: UploadKind;
  /** The same bytes, where they lie in the store already. */
  stored?: Stored | null;
}

/**
 * @param once the request's, claimed and kept in the transaction of the file's row
 * @param also is done in that transaction
 * @throws Problem "unsupported-media-type", "too-large", "quota-exceeded", "storage-unavailable"
 */
export async function keepUpload(
  context: Context,
  { storage, config }: FileDeps,
  { file, kind, stored }: Received,
  once: Once,
  also: (tx: Sql, key: string) => Promise<void> = async () => {},
): Promise<Answer> {
  const { sql, viewer } = context;
  const userId = viewer.id as number;
  let answer: Answer | undefined;
  const inside: Inside = (write) =>
    transaction(context, async ({ sql }) => {
      await once.claim(sql);
      const key = await write(sql);
      await also(sql, key);
      await judgeQuota(sql, userId, config.userQuotaBytes);
      const [row] = await sql<FileRow[]>`select * from files where key = ${key}`;
      answer = {
        status: 201,
        headers: { Location: `/api/files/${key}` },
        body: JSON.stringify(showFile(context, row as FileRow)),
      };
      await once.keep(sql, answer);
      return key;
    });
  const keeping = { inside, isUpload: true };
  if (kind === "model") await keepModelFile(sql, storage, userId, file, { ...keeping, stored: stored ?? undefined });
  else {
    await keepPicture(sql, storage, userId, await readPicture(file.path), keeping);
    if (stored) await storage.delete(stored.key); // kept is what we have made of it
  }
  return answer as Answer;
}

/** A file as its owner is answered. */
export function showFile({ links }: Context, file: FileRow) {
  const { key, hash, size, content_type, width, height, thumbhash, created_at } = file;
  const url = (shown: string) => links.file(shown, { isSigned: true });
  return {
    ...{ key, url: url(key), hash, size, content_type, width, height },
    thumbnail: thumbhash === null ? null : url(thumbnailKey(key, 512)),
    thumbnail_small: thumbhash === null ? null : url(thumbnailKey(key, 256)),
    thumbhash,
    metadata: file.metadata,
    created_at,
  };
}

/** Uploads that go straight to the object store: the URL for them, and what is done once they are there. */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { isProblem, Problem } from "../problems.ts";
import type { Answer } from "../rest/answer.ts";
import type { Context } from "../rest/define.ts";
import type { Once } from "../rest/idempotency.ts";
import { readInput, throwFaults } from "../rest/input.ts";
import { transaction } from "../rest/write.ts";
import { modelType } from "../storage/models.ts";
import { beginUpload, collectUpload, deletePending, findUpload, giveBack, pendingKey } from "../storage/pending.ts";
import { pictureTypes } from "../storage/pictures.ts";
import { judgeQuota } from "../storage/quota.ts";
import { tooLarge } from "../storage/spool.ts";
import { judgeFile, uploadLimits } from "../storage/upload.ts";
import { type FileDeps, type FileRow, keepUpload, showFile } from "./keep-upload.ts";

/** For sending it, as the contract has it. */
const lastsSeconds = 3600;

export const directUpload = {
  content_type: z.enum([...pictureTypes, modelType]),
  size: z.int().positive().meta({ description: "Exactly as many bytes will be sent" }),
};

/** @throws Problem "unsupported-media-type" where the store takes nothing directly; "too-large", "quota-exceeded" */
export async function beginDirect(
  context: Context,
  { storage, config }: FileDeps,
  body: unknown,
  once: Once,
): Promise<Answer> {
  const rules = { shape: () => directUpload, required: ["content_type", "size"] };
  const { input, faults } = readInput({ fields: {} }, rules, body, context);
  throwFaults(faults);
  const { content_type, size } = input as { content_type: string; size: number };
  const limit = content_type === modelType ? uploadLimits.model : uploadLimits.picture;
  if (size > limit) throw tooLarge(limit);
  const userId = context.viewer.id as number;
  return transaction(context, async ({ sql }) => {
    await once.claim(sql);
    const upload = await beginUpload(sql, { userId, contentType: content_type, size, lastsSeconds });
    await judgeQuota(sql, userId, config.userQuotaBytes);
    const options = { ttlSeconds: lastsSeconds, contentType: content_type, size };
    const url = await storage.signedUpload(pendingKey(upload), options);
    if (url === null) {
      throw new Problem("unsupported-media-type", {
        detail: "Files are not kept in an object store here: send the file itself, or in parts to /api/uploads.",
      });
    }
    const path = `/api/files/${upload.key}`;
    const answer = {
      status: 201,
      headers: { Location: path },
      body: JSON.stringify({
        key: upload.key,
        upload: { method: "PUT", url, headers: { "Content-Type": content_type } },
        complete: `${path}/complete`,
        expires_at: upload.expires_at,
      }),
    } as const;
    await once.keep(sql, answer);
    return answer;
  });
}

/**
 * Checks an upload that has been sent, directly or in parts, and keeps it. May run twice.
 *
 * @throws Problem "not-found", "upload-incomplete", and all that a plain upload may be refused with
 */
export async function completeUpload(context: Context, deps: FileDeps, key: string, once: Once): Promise<Answer> {
  const { sql, viewer } = context;
  const upload = await findUpload(sql, viewer.id, key);
  if (!upload) throw new Problem("not-found", { detail: `There is no upload ${key}` });
  if (upload.file_key !== null) {
    const [row] = await sql<FileRow[]>`select * from files where key = ${upload.file_key}`;
    if (!row) throw new Problem("not-found", { detail: `There is no upload ${key}` });
    const headers = { Location: `/api/files/${row.key}` };
    return { status: 200, headers, body: JSON.stringify(showFile(context, row)) };
  }
  await mkdir(deps.temporaryDirectory, { recursive: true });
  const path = join(deps.temporaryDirectory, randomUUID());
  try {
    const { file, stored } = await collectUpload(deps.storage, upload, path);
    const keepIt = async () => {
      const kind = await judgeFile(path, file.size, upload.content_type);
      return keepUpload(context, deps, { file, kind, stored }, once, async (tx, fileKey) => {
        await tx`update uploads set file_key = ${fileKey} where key = ${key}`;
      });
    };
    const answer = await keepIt().catch(async (error) => {
      // A connection that broke may have committed all the same: then the bytes are where they belong.
      const isKept =
        isProblem(error, "database-unavailable") &&
        (await findUpload(sql, viewer.id, key).then(
          (now) => now?.file_key != null,
          () => true,
        ));
      if (stored && !isKept) await giveBack(deps.storage, upload, stored.key, error);
      throw error;
    });
    await deletePending(deps.storage, upload);
    return answer;
  } finally {
    await rm(path, { force: true });
  }
}

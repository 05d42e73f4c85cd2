/**
 * Uploads that survive a broken connection, by the tus protocol 1.0.0 (https://tus.io/protocols/resumable-upload) with
 * its extensions creation, termination and expiration, so that any tus client can send a model of gigabytes. What was
 * sent is then checked and kept by `POST /api/files/{key}/complete`.
 *
 * Written out rather than on @tus/server: that answers errors as text, and its store, locks and rights would be ours
 * to write all the same.
 */
import { Hono, type Context as HonoContext } from "hono";
import { invalid, Problem } from "../problems.ts";
import { refuseBody } from "../rest/body.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { answerOnce } from "../rest/idempotency.ts";
import { transaction } from "../rest/write.ts";
import { beginUpload, deletePending, findUpload, type PendingUpload, receiveParts } from "../storage/pending.ts";
import { judgeQuota } from "../storage/quota.ts";
import { tooLarge } from "../storage/spool.ts";
import { uploadLimits } from "../storage/upload.ts";
import { requireUser } from "./files.ts";
import type { FileDeps } from "./keep-upload.ts";

const version = "1.0.0";
/** For sending it all, however often the connection breaks. */
const lastsSeconds = 24 * 3600;
const partType = "application/offset+octet-stream";

export function resumableRoutes({ storage, temporaryDirectory, config }: FileDeps) {
  const routes = new Hono<Env>();

  routes.use(async (c, next) => {
    if (c.req.method !== "OPTIONS") {
      requireUser(c);
      refuseVersion(c);
    }
    await next();
    c.res.headers.set("Tus-Resumable", version);
  });

  routes.options("/", (c) =>
    c.body(null, 204, {
      "Tus-Version": version,
      "Tus-Extension": "creation,termination,expiration",
      "Tus-Max-Size": String(uploadLimits.model),
    }),
  );

  routes.post("/", async (c) => {
    const { context, userId } = requireUser(c);
    await refuseBody(c.req.raw);
    refuseQuery(c.req.url);
    const size = readCount(c, "Upload-Length");
    if (size < 1) throw invalid("", "An upload has at least one byte.");
    if (size > uploadLimits.model) throw tooLarge(uploadLimits.model);
    return answerOnce(
      c,
      () => `upload ${size}`,
      (once) =>
        transaction(context, async ({ sql }) => {
          await once.claim(sql);
          const upload = await beginUpload(sql, { userId, size, lastsSeconds });
          await judgeQuota(sql, userId, config.userQuotaBytes);
          const headers = { ...headersOf(upload), Location: `/api/uploads/${upload.key}` };
          const answer = { status: 201, headers, body: JSON.stringify(show(upload)) } as const;
          await once.keep(sql, answer);
          return answer;
        }),
    );
  });

  // HEAD is answered by GET's headers.
  routes.get("/:key", async (c) => {
    refuseQuery(c.req.url);
    const upload = await find(c);
    return c.json(show(upload), 200, { ...headersOf(upload), "Cache-Control": "no-store" });
  });

  routes.patch("/:key", async (c) => {
    const { context } = requireUser(c);
    if (c.req.header("content-type") !== partType) {
      throw new Problem("unsupported-media-type", { detail: `The body must be ${partType}` });
    }
    refuseQuery(c.req.url);
    const upload = await find(c);
    const offset = readCount(c, "Upload-Offset");
    if (offset !== upload.received || upload.file_key !== null) {
      throw new Problem("upload-offset", { detail: `The upload goes on at byte ${upload.received}.` });
    }
    const { body } = c.req.raw;
    const received = body ? await receiveParts(context.sql, storage, upload, body, temporaryDirectory) : offset;
    return c.body(null, 204, headersOf({ ...upload, received }));
  });

  routes.delete("/:key", async (c) => {
    const { context } = requireUser(c);
    refuseQuery(c.req.url);
    const upload = await find(c);
    const [gone] = await context.sql<PendingUpload[]>`delete from uploads where key = ${upload.key} returning *`;
    await deletePending(storage, gone ?? upload);
    return c.body(null, 204);
  });
  return routes;
}

/** One that is sent in parts. @throws Problem "token-required", "not-found" */
async function find(c: HonoContext<Env>): Promise<PendingUpload> {
  const { context, userId } = requireUser(c);
  const key = c.req.param("key") ?? "";
  const upload = await findUpload(context.sql, userId, key);
  if (upload?.content_type !== null) throw new Problem("not-found", { detail: `There is no upload ${key}` });
  return upload;
}

function headersOf({ received, size, expires_at }: PendingUpload): Record<string, string> {
  return {
    "Upload-Offset": String(received),
    "Upload-Length": String(size),
    "Upload-Expires": new Date(expires_at).toUTCString(),
  };
}

function show({ key, size, received, file_key, expires_at }: PendingUpload) {
  const file = file_key === null ? null : `/api/files/${file_key}`;
  return { key, size, received, file, complete: `/api/files/${key}/complete`, expires_at };
}

function refuseVersion(c: HonoContext<Env>): void {
  const asked = c.req.header("tus-resumable");
  if (asked === version || (asked === undefined && ["GET", "HEAD"].includes(c.req.method))) return;
  const headers = { "Tus-Version": version };
  throw new Problem("precondition-failed", { detail: `The header Tus-Resumable must be ${version}`, headers });
}

/** @throws Problem "invalid" */
function readCount(c: HonoContext<Env>, header: string): number {
  const text = c.req.header(header) ?? "";
  if (!/^\d{1,15}$/.test(text)) throw invalid("", `The header ${header} must be a whole number.`);
  return Number(text);
}

/** Stored files: uploads in, bytes out to those who may see them. */
import { Hono, type Context as HonoContext } from "hono";
import { Problem } from "../problems.ts";
import { partsOfSample, taskOfPreview } from "../resources/common.ts";
import { readJson, refuseBody } from "../rest/body.ts";
import type { Context } from "../rest/define.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { answerOnce, canonicalJson } from "../rest/idempotency.ts";
import { parsePaging, toPage } from "../rest/paging.ts";
import { isKey, readThumbnailKey } from "../storage/keys.ts";
import { quotaExceeded, readAllowance } from "../storage/quota.ts";
import { deleteUnused } from "../storage/records.ts";
import { receiveUpload } from "../storage/upload.ts";
import { beginDirect, completeUpload } from "./direct-uploads.ts";
import { type FileDeps, type FileRow, keepUpload, showFile } from "./keep-upload.ts";
import { sendFile } from "./send-file.ts";

export function fileRoutes(deps: FileDeps) {
  const routes = new Hono<Env>();
  const { storage, temporaryDirectory, config } = deps;

  routes.post("/", async (c) => {
    const { context, userId } = requireUser(c);
    refuseQuery(c.req.url);
    if (/^application\/json\b/i.test(c.req.header("content-type") ?? "")) {
      const body = await readJson(c.req.raw);
      return answerOnce(
        c,
        () => canonicalJson(body),
        (once) => beginDirect(context, deps, body, once),
      );
    }
    const upload = await receiveUpload(c.req.raw, {
      directory: temporaryDirectory,
      allowance: await readAllowance(context.sql, userId, config.userQuotaBytes),
      refuse: () => quotaExceeded(config.userQuotaBytes),
    });
    try {
      return await answerOnce(
        c,
        () => `file ${upload.hash}`,
        (once) => keepUpload(context, deps, { file: upload, kind: upload.kind }, once),
      );
    } finally {
      await upload.dispose();
    }
  });

  routes.post("/:key/complete", async (c) => {
    const { context } = requireUser(c);
    await refuseBody(c.req.raw);
    refuseQuery(c.req.url);
    const key = readKey(c.req.param("key"));
    return answerOnce(
      c,
      () => "complete",
      (once) => completeUpload(context, deps, key, once),
    );
  });

  routes.get("/", async (c) => c.json(await listOwn(requireUser(c).context, new URL(c.req.url).searchParams, config)));

  routes.get("/:key", async (c) => {
    const context = c.get("context");
    const { links } = context;
    const key = readKey(c.req.param("key"));
    const { picture, edge } = readThumbnailKey(key);
    const query = new URL(c.req.url).searchParams;
    const shown = shownByEngine(key, context.sql);
    if (shown) return sendShown(shown, links.isSigned(key, query), key);
    const [file] = await context.sql<(FileRow & { is_public: boolean })[]>`
      select *, is_file_public(key, user_id) as is_public from files where key = ${picture}
    `;
    const { viewer } = context;
    const isOpen = file?.is_public || (file && (viewer.admin || (viewer.id !== null && viewer.id === file.user_id)));
    if (!file || !(isOpen || links.isSigned(key, query))) throw notFound(key);
    const headers = { "Cache-Control": file.is_public ? "public, max-age=300" : "private, max-age=300" };
    return sendFile(c.req.raw, storage, file, headers, { edge });
  });

  routes.delete("/:key", async (c) => {
    const { sql, viewer } = requireUser(c).context;
    // A URL as it was shown names the file, too.
    refuseQuery(c.req.url, ["expires", "signature"]);
    const key = readKey(c.req.param("key"));
    const [file] = await sql<{ user_id: number | null; is_used: boolean; is_public: boolean }[]>`
      select user_id, is_file_used(key) as is_used, is_file_public(key, user_id) as is_public
      from files where key = ${key}
    `;
    const isMine = file && (viewer.admin || file.user_id === viewer.id);
    if (!file || !(isMine || file.is_public)) throw notFound(key);
    if (!isMine) throw new Problem("forbidden");
    const inUse = () => new Problem("in-use", { detail: "Something still uses this file" });
    if (file.is_used) throw inUse();
    await deleteUnused(sql, storage, [key], true);
    const [kept] = await sql`select from files where key = ${key}`;
    if (kept) throw inUse(); // somebody took it up in between
    return c.body(null, 204);
  });
  return routes;
}

/** @throws Problem "token-required" */
export function requireUser(c: HonoContext<Env>): { context: Context; userId: number } {
  const context = c.get("context");
  if (context.viewer.id === null) throw new Problem("token-required");
  return { context, userId: context.viewer.id };
}

type Shown = Promise<{ bytes: Uint8Array<ArrayBuffer> }[]>;

/** What an engine shows of its work: the newest picture while it goes on, or a sample of a training; else null. */
function shownByEngine(key: string, sql: Context["sql"]): (() => Shown) | null {
  const taskId = taskOfPreview(key);
  if (taskId !== null) return () => sql`select bytes from previews where task_id = ${taskId}`;
  const sample = partsOfSample(key);
  if (!sample) return null;
  return () => sql`select bytes from samples where task_id = ${sample.taskId} and step = ${sample.step}`;
}

/** To those who were shown the URL. */
async function sendShown(find: () => Shown, isSigned: boolean, key: string): Promise<Response> {
  const [shown] = isSigned ? await find() : [];
  if (!shown) throw notFound(key);
  return new Response(shown.bytes, {
    headers: { "Content-Type": "image/webp", "Cache-Control": "private, max-age=60" },
  });
}

/** What can be no key names no file. @throws Problem "not-found" */
function readKey(text: string): string {
  if (!isKey(text)) throw notFound(text);
  return text;
}

function notFound(key: string): Problem {
  return new Problem("not-found", { detail: `There is no file ${key}` });
}

/** One's own files, newest last, how many bytes they take, and how many they may. */
async function listOwn(context: Context, query: URLSearchParams, { userQuotaBytes }: FileDeps["config"]) {
  const { sql, viewer } = context;
  const paging = parsePaging(query);
  const { pageSize, offset } = paging;
  const files = await sql<FileRow[]>`
    select * from files where user_id = ${viewer.id} order by created_at, key limit ${pageSize} offset ${offset}
  `;
  const [sum] = await sql<{ count: number; bytes: number }[]>`
    select count(*), coalesce(sum(size), 0)::bigint as bytes from files where user_id = ${viewer.id}
  `;
  const list = files.map((file) => showFile(context, file));
  const { count = 0, bytes = 0 } = sum ?? {};
  return { ...toPage(paging, count, list), used_bytes: bytes, quota_bytes: userQuotaBytes || null };
}

/** Stored files: uploads in, bytes out to those who may see them. */
import { Hono } from "hono";
import { Problem } from "../problems.ts";
import type { Answer } from "../rest/answer.ts";
import type { Context, Input } from "../rest/define.ts";
import { matchesNone } from "../rest/etag.ts";
import type { Env } from "../rest/http.ts";
import { answerOnce, type Once } from "../rest/idempotency.ts";
import { parsePaging, toPage } from "../rest/paging.ts";
import { transaction } from "../rest/write.ts";
import { contentDisposition } from "../storage/disposition.ts";
import { isKey } from "../storage/keys.ts";
import { readPicture } from "../storage/pictures.ts";
import { deleteUnused, type FileRecord, type Inside, keepFile, keepPicture } from "../storage/records.ts";
import { readSafetensorsHeader } from "../storage/safetensors.ts";
import { streamFile } from "../storage/spool.ts";
import type { ByteRange, Storage } from "../storage/storage.ts";
import { receiveUpload, type Upload } from "../storage/upload.ts";

const modelType = "application/octet-stream";
/** A store's own URL is asked for anew at each request: it need not last. */
const directSeconds = 600;

interface FileDeps {
  storage: Storage;
  temporaryDirectory: string;
}

interface FileRow extends FileRecord {
  user_id: number | null;
  kind: "picture" | "model";
  content_type: string;
  width: number | null;
  height: number | null;
  created_at: string;
}

export function fileRoutes({ storage, temporaryDirectory }: FileDeps) {
  const routes = new Hono<Env>();

  routes.post("/", async (c) => {
    const context = c.get("context");
    if (context.viewer.id === null) throw new Problem("token-required");
    const upload = await receiveUpload(c.req.raw, { directory: temporaryDirectory });
    try {
      return await answerOnce(
        c,
        () => `file ${upload.hash}`,
        (once) => keep(context, storage, upload, once),
      );
    } finally {
      await upload.dispose();
    }
  });

  routes.get("/", async (c) => c.json(await listOwn(c.get("context"), new URL(c.req.url).searchParams)));

  routes.get("/:key", async (c) => {
    const context = c.get("context");
    const key = readKey(c.req.param("key"));
    const query = new URL(c.req.url).searchParams;
    const [file] = await context.sql<(FileRow & { is_public: boolean })[]>`
      select *, is_file_public(key, user_id) as is_public from files where key = ${key}
    `;
    const { viewer, links } = context;
    const isOpen = file?.is_public || (file && (viewer.admin || (viewer.id !== null && viewer.id === file.user_id)));
    if (!file || !(isOpen || links.isSigned(key, query))) throw notFound(key);
    const headers = { "Cache-Control": file.is_public ? "public, max-age=300" : "private, max-age=300" };
    return sendFile(c.req.raw, storage, file, headers);
  });

  routes.delete("/:key", async (c) => {
    const { sql, viewer } = c.get("context");
    if (viewer.id === null) throw new Problem("token-required");
    const key = readKey(c.req.param("key"));
    const [file] = await sql<{ user_id: number | null; is_used: boolean; is_public: boolean }[]>`
      select user_id, is_file_used(key) as is_used, is_file_public(key, user_id) as is_public
      from files where key = ${key}
    `;
    const isMine = file && (viewer.admin || file.user_id === viewer.id);
    if (!file || !(isMine || file.is_public)) throw notFound(key);
    if (!isMine) throw new Problem("forbidden");
    if (file.is_used) throw new Problem("in-use", { detail: "Something still uses this file" });
    await deleteUnused(sql, storage, [key]);
    return c.body(null, 204);
  });
  return routes;
}

/** `GET /api/models/{id}/file`: the model's file, for those who may see the model. */
export function modelFileRoutes({ storage }: Pick<FileDeps, "storage">, findModel: ModelFinder) {
  const routes = new Hono<Env>();
  routes.get("/:id/file", async (c) => {
    const context = c.get("context");
    const id = c.req.param("id");
    const { model_path, name } = await findModel(id, context);
    if (typeof model_path !== "string") throw new Problem("not-found", { detail: `Model ${id} has no file yet` });
    const [file] = await context.sql<FileRow[]>`select * from files where key = ${model_path}`;
    if (!file) throw new Problem("not-found", { detail: `Model ${id} has no file yet` });
    return sendFile(c.req.raw, storage, file, { "Cache-Control": "private, no-cache" }, `${name}.safetensors`);
  });
  return routes;
}

type ModelFinder = (id: string, context: Context) => Promise<Input>;

/** What can be no key names no file. @throws Problem "not-found" */
function readKey(text: string): string {
  if (!isKey(text)) throw notFound(text);
  return text;
}

function notFound(key: string): Problem {
  return new Problem("not-found", { detail: `There is no file ${key}` });
}

async function keep(context: Context, storage: Storage, upload: Upload, once: Once): Promise<Answer> {
  const { sql, viewer } = context;
  const userId = viewer.id as number;
  let answer: Answer | undefined;
  const inside: Inside = (write) =>
    transaction(context, async ({ sql }) => {
      await once.claim(sql);
      const key = await write(sql);
      const [file] = await sql<FileRow[]>`select * from files where key = ${key}`;
      const body = JSON.stringify(show(context, file as FileRow));
      answer = { status: 201, headers: { Location: `/api/files/${key}` }, body };
      await once.keep(sql, answer);
      return key;
    });
  if (upload.kind === "picture") {
    await keepPicture(sql, storage, userId, await readPicture(upload.path), inside);
  } else {
    await readSafetensorsHeader(upload.path);
    const file = { userId, kind: "model", contentType: modelType, extension: "safetensors" } as const;
    await keepFile(sql, storage, file, streamFile(upload.path, 0, upload.size - 1), inside);
  }
  return answer as Answer;
}

function show({ links }: Context, file: FileRow) {
  const { key, hash, size, content_type, width, height, created_at } = file;
  return { key, url: links.file(key, { isSigned: true }), hash, size, content_type, width, height, created_at };
}

/** One's own files, newest last, and how many bytes they take. */
async function listOwn(context: Context, query: URLSearchParams) {
  const { sql, viewer } = context;
  if (viewer.id === null) throw new Problem("token-required");
  const paging = parsePaging(query);
  const { pageSize, offset } = paging;
  const files = await sql<FileRow[]>`
    select * from files where user_id = ${viewer.id} order by created_at, key limit ${pageSize} offset ${offset}
  `;
  const [sum] = await sql<{ count: number; bytes: number }[]>`
    select count(*), coalesce(sum(size), 0)::bigint as bytes from files where user_id = ${viewer.id}
  `;
  const list = files.map((file) => show(context, file));
  return { ...toPage(paging, sum?.count ?? 0, list), used_bytes: sum?.bytes ?? 0 };
}

/** The bytes, or the store's own short-lived URL for them. Ranges and ETags as RFC 9110 has them. */
async function sendFile(
  request: Request,
  storage: Storage,
  file: FileRow,
  extra: Record<string, string>,
  fileName?: string,
): Promise<Response> {
  const etag = `"${file.hash}"`;
  const headers: Record<string, string> = {
    ...extra,
    ETag: etag,
    "Content-Type": file.content_type,
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Disposition": fileName ? contentDisposition(fileName) : "inline",
  };
  if (matchesNone(request.headers.get("if-none-match"), etag)) {
    return new Response(null, { status: 304, headers });
  }
  const options = { ttlSeconds: directSeconds, contentType: file.content_type, fileName };
  const direct = await storage.signedUrl(file.key, options);
  if (direct) return new Response(null, { status: 302, headers: { Location: direct, "Cache-Control": "no-store" } });
  const isRangeMeant = [null, etag].includes(request.headers.get("if-range"));
  const range = isRangeMeant ? readRange(request.headers.get("range"), file.size) : null;
  if (range === "unsatisfiable") {
    return new Response(null, { status: 416, headers: { "Content-Range": `bytes */${file.size}` } });
  }
  const object = await storage.get(file.key, range ?? undefined);
  if (!object) throw new Problem("not-found", { detail: `There is no file ${file.key}` });
  if (range) headers["Content-Range"] = `bytes ${range.start}-${range.end}/${file.size}`;
  headers["Content-Length"] = String(range ? range.end - range.start + 1 : file.size);
  return new Response(object.stream(), { status: range ? 206 : 200, headers });
}

/** One range; several, another unit, or one that ends before it begins are answered with the whole, as the RFC says. */
function readRange(header: string | null, size: number): ByteRange | "unsatisfiable" | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return null;
  const isSuffix = match[1] === "";
  const start = isSuffix ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = isSuffix || match[2] === "" ? size - 1 : Math.min(Number(match[2]), size - 1);
  if (!isSuffix && match[2] !== "" && Number(match[2]) < start) return null;
  return start > end || start >= size ? "unsatisfiable" : { start, end };
}

/** A stored file as an answer: whole, in part, not at all, or where the store has it. */
import { Hono } from "hono";
import { Problem } from "../problems.ts";
import type { Context, Input } from "../rest/define.ts";
import { matchesNone } from "../rest/etag.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { contentDisposition } from "../storage/disposition.ts";
import { type ThumbnailEdge, thumbnailKey } from "../storage/keys.ts";
import type { ByteRange, Storage } from "../storage/storage.ts";
import { thumbnailType } from "../storage/thumbnails.ts";

/**
 * A store's own URL is asked for anew at each request, and judged when the download begins: it need not last. Whoever
 * follows a signed URL in its last second must not get ten more minutes out of it.
 */
const directSeconds = 60;

/** What of a row in `files` an answer needs. */
export interface SentFile {
  key: string;
  hash: string;
  content_type: string;
  thumbhash: string | null;
}

/** `GET /api/models/{id}/file`: the model's file, for those who may see the model. */
export function modelFileRoutes({ storage }: { storage: Storage }, findModel: ModelFinder) {
  const routes = new Hono<Env>();
  routes.get("/:id/file", async (c) => {
    const context = c.get("context");
    refuseQuery(c.req.url);
    const id = c.req.param("id");
    const { model_path, name } = await findModel(id, context);
    if (typeof model_path !== "string") throw new Problem("not-found", { detail: `Model ${id} has no file yet` });
    const [file] = await context.sql<SentFile[]>`select * from files where key = ${model_path}`;
    if (!file) throw new Problem("not-found", { detail: `Model ${id} has no file yet` });
    const fileName = `${name}.${model_path.split(".").at(-1)}`;
    return sendFile(c.req.raw, storage, file, { "Cache-Control": "private, no-cache" }, { fileName });
  });
  return routes;
}

type ModelFinder = (id: string, context: Context) => Promise<Input>;

/**
 * The bytes, or the store's own short-lived URL for them. Ranges and ETags as RFC 9110 has them.
 *
 * @param edge a thumbnail of the picture instead
 * @param fileName makes it a download
 * @throws Problem "not-found" when there is no such thumbnail, or the store has lost the file
 */
export async function sendFile(
  request: Request,
  storage: Storage,
  file: SentFile,
  extra: Record<string, string>,
  { edge = null, fileName }: { edge?: ThumbnailEdge | null; fileName?: string } = {},
): Promise<Response> {
  const key = edge === null ? file.key : thumbnailKey(file.key, edge);
  const missing = () => new Problem("not-found", { detail: `There is no file ${key}` });
  if (edge !== null && file.thumbhash === null) throw missing();
  const contentType = edge === null ? file.content_type : thumbnailType;
  const etag = edge === null ? `"${file.hash}"` : `"${file.hash}-${edge}"`;
  const headers: Record<string, string> = {
    ...extra,
    ETag: etag,
    "Content-Type": contentType,
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Disposition": fileName ? contentDisposition(fileName) : "inline",
  };
  if (matchesNone(request.headers.get("if-none-match"), etag)) {
    return new Response(null, { status: 304, headers });
  }
  const direct = await storage.signedUrl(key, { ttlSeconds: directSeconds, contentType, fileName });
  if (direct) return new Response(null, { status: 302, headers: { Location: direct, "Cache-Control": "no-store" } });
  const whole = await storage.get(key);
  if (!whole) throw missing();
  const isRangeMeant = [null, etag].includes(request.headers.get("if-range"));
  const range = isRangeMeant ? readRange(request.headers.get("range"), whole.size) : null;
  if (range === "unsatisfiable") {
    return new Response(null, { status: 416, headers: { "Content-Range": `bytes */${whole.size}` } });
  }
  const object = range ? await storage.get(key, range) : whole;
  if (!object) throw missing();
  if (range) headers["Content-Range"] = `bytes ${range.start}-${range.end}/${whole.size}`;
  headers["Content-Length"] = String(range ? range.end - range.start + 1 : whole.size);
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

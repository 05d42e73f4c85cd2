/** Routes that take files in and give them out. */
import { createReadStream, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { Readable } from "node:stream";
import type { Context, Hono } from "hono";
import sharp from "sharp";
import { isFileType, splitAnnotation, within } from "./files.ts";
import type { RouteOptions } from "./routing.ts";

export function addFiles(routes: Hono, { files }: RouteOptions): void {
  routes.post("/upload/image", async (c) => {
    const form = await c.req.formData();
    const type = form.get("type") ?? "input";
    const image = form.get("image");
    const subfolder = form.get("subfolder") ?? "";
    if (!isFileType(type) || !(image instanceof File) || image.name === "") return c.body(null, 400);
    if (typeof subfolder !== "string") return c.body(null, 400);
    const isOverwriting = ["true", "1"].includes(String(form.get("overwrite")));
    const bytes = new Uint8Array(await image.arrayBuffer());
    const name = await files.upload(type, subfolder, image.name, bytes, isOverwriting);
    return name === null ? c.body(null, 400) : c.json({ name, subfolder, type });
  });
  routes.get("/view", async (c) => {
    const asked = c.req.query("filename");
    if (asked === undefined) return c.body(null, 404);
    const { name, type: annotated } = splitAnnotation(asked);
    const type = annotated ?? c.req.query("type") ?? "output";
    if (name === "" || name.startsWith("/") || name.includes("..") || !isFileType(type)) return c.body(null, 400);
    const folder = within(files.root(type), c.req.query("subfolder") ?? "");
    if (folder === null) return c.body(null, 403);
    // ComfyUI takes the last part of the name only: sub-folders go into `subfolder`.
    const path = within(folder, basename(name));
    if (path === null || !(statSync(path, { throwIfNoEntry: false })?.isFile() ?? false)) return c.body(null, 404);
    return viewFile(c, path);
  });
}

const contentTypes: Record<string, string> = {
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg",
  ".webp": "image/webp",
  ".txt": "text/plain",
  ".json": "application/json",
};

async function viewFile(c: Context, path: string): Promise<Response> {
  const headers = { "Content-Disposition": `filename="${basename(path).replaceAll('"', '\\"')}"` };
  const preview = c.req.query("preview");
  if (preview !== undefined) {
    const [format, quality] = preview.split(";");
    const isJpeg = format === "jpeg";
    const settings = { quality: Number(quality) || 90 };
    const picture = sharp(path);
    const bytes = await (isJpeg ? picture.jpeg(settings) : picture.webp(settings)).toBuffer();
    return c.body(new Uint8Array(bytes), 200, { ...headers, "Content-Type": isJpeg ? "image/jpeg" : "image/webp" });
  }
  const channel = c.req.query("channel");
  if (channel === "rgb" || channel === "a") {
    const picture = sharp(await readFile(path)).ensureAlpha();
    const bytes = await (channel === "rgb" ? picture.removeAlpha() : picture.extractChannel("alpha")).png().toBuffer();
    return c.body(new Uint8Array(bytes), 200, { ...headers, "Content-Type": "image/png" });
  }
  const type = contentTypes[extname(path).toLowerCase()] ?? "application/octet-stream";
  const length = String(statSync(path).size);
  // A stream: trained files may be large, and slow readers many.
  const stream = Readable.toWeb(createReadStream(path)) as unknown as ReadableStream<Uint8Array>;
  return c.body(stream, 200, { ...headers, "Content-Type": type, "Content-Length": length });
}

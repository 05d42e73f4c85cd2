/** The HTTP side: ComfyUI's routes over the engine's parts. */
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { freemem, platform, totalmem } from "node:os";
import { basename, extname } from "node:path";
import { Readable } from "node:stream";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import sharp from "sharp";
import type { Executor } from "./execution.ts";
import { type EngineFiles, isFileType, splitAnnotation, within } from "./files.ts";
import { type Graph, type ValidationContext, validateGraph, validationError } from "./graph.ts";
import { describeNode, type NodeClasses } from "./nodes.ts";
import type { PromptQueue } from "./queue.ts";
import { readMetadata } from "./safetensors.ts";

export interface RouteOptions {
  classes: NodeClasses;
  files: EngineFiles;
  queue: PromptQueue;
  executor: Executor;
  validation: ValidationContext;
  version: string;
  features: Record<string, unknown>;
  maxUploadBytes: number;
  /** Basic auth for every route, the WebSocket included; null for none, as ComfyUI itself has none. */
  login: { username: string; password: string } | null;
  /** Takes over a request for `/ws`; null when it is no upgrade. */
  upgrade: (request: Request, clientId: string) => Response | null;
}

/** The header of `/view_metadata` is not read beyond this. */
const maxMetadataBytes = 1024 * 1024;
/** What the newer ComfyUI insists on: a UUID in lower case with hyphens. */
const canonicalUuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** All routes, each as `/x` and as `/api/x`. */
export function createRoutes(options: RouteOptions): Hono {
  const routes = new Hono();
  addWebSocket(routes, options);
  addDescriptions(routes, options);
  addFiles(routes, options);
  addPrompts(routes, options);

  const app = new Hono();
  app.use(sameOrigin);
  if (options.login !== null) app.use(basicAuth(options.login));
  app.use(
    bodyLimit({
      maxSize: options.maxUploadBytes,
      onError: (c) => c.text(`Maximum request body size ${options.maxUploadBytes} exceeded.`, 413),
    }),
  );
  app.route("/api", routes);
  app.route("/", routes);
  app.notFound((c) => c.text("404: Not Found", 404));
  // Malformed JSON and the like end here, bare as aiohttp answers them.
  app.onError((_, c) => c.text("500 Internal Server Error\n\nServer got itself in trouble", 500));
  return app;
}

/** A browser on another site must not reach an engine on this machine: Host and Origin have to agree. */
const sameOrigin: MiddlewareHandler = async (c, next) => {
  const host = c.req.header("host");
  const origin = c.req.header("origin");
  const isLoopback = /^(localhost|127\.|\[::1\])/i.test(host ?? "");
  if (host !== undefined && origin !== undefined && isLoopback) {
    const originHost = URL.canParse(origin) ? new URL(origin).host : "";
    if (originHost !== "" && originHost !== host.toLowerCase()) return c.body(null, 403);
  }
  return next();
};

/** Stands for the reverse proxy that guards a real engine. */
function basicAuth({ username, password }: { username: string; password: string }): MiddlewareHandler {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  const expected = hash(`Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`);
  return async (c, next) => {
    if (timingSafeEqual(hash(c.req.header("authorization") ?? ""), expected)) return next();
    return c.text("401: Unauthorized", 401, { "WWW-Authenticate": 'Basic realm="Atelier demo engine"' });
  };
}

function addWebSocket(routes: Hono, { upgrade }: RouteOptions): void {
  routes.get(
    "/ws",
    (c) => upgrade(c.req.raw, c.req.query("clientId") ?? "") ?? c.text("400: No WebSocket UPGRADE hdr", 400),
  );
}

function addDescriptions(routes: Hono, { classes, files, version, features, executor }: RouteOptions): void {
  routes.get("/system_stats", (c) => {
    const memory = {
      vram_total: totalmem(),
      vram_free: freemem(),
      torch_vram_total: totalmem(),
      torch_vram_free: freemem(),
    };
    return c.json({
      system: {
        os: platform(),
        ram_total: totalmem(),
        ram_free: freemem(),
        comfyui_version: version,
        required_frontend_version: null,
        python_version: "none (demo engine)",
        pytorch_version: "none (demo engine)",
        embedded_python: false,
        argv: ["atelier-demo-engine"],
      },
      devices: [{ name: "Atelier demo engine (CPU)", type: "cpu", index: null, ...memory }],
    });
  });
  routes.get("/features", (c) => c.json(features));
  routes.get("/object_info", (c) =>
    c.json(Object.fromEntries([...classes].map(([name, node]) => [name, describeNode(name, node, files)]))),
  );
  routes.get("/object_info/:class", (c) => {
    const name = c.req.param("class");
    const node = classes.get(name);
    return c.json(node === undefined ? {} : { [name]: describeNode(name, node, files) });
  });
  routes.get("/models", (c) => c.json(files.modelFolders));
  routes.get("/models/:folder", (c) => {
    const names = files.listModels(c.req.param("folder"));
    return names === null ? c.body(null, 404) : c.json(names);
  });
  routes.get("/embeddings", (c) =>
    c.json((files.listModels("embeddings") ?? []).map((name) => name.slice(0, name.length - extname(name).length))),
  );
  routes.get("/view_metadata/:folder", async (c) => {
    const name = c.req.query("filename") ?? "";
    const path = name.endsWith(".safetensors") ? files.findModel(c.req.param("folder"), name) : null;
    const metadata = path === null ? null : await readMetadata(path, maxMetadataBytes);
    return metadata === null ? c.body(null, 404) : c.json(metadata);
  });
  routes.post("/free", async (c) => {
    const body = await readJson(c);
    if (body.unload_models || body.free_memory) executor.free();
    return c.body(null, 200);
  });
}

function addFiles(routes: Hono, { files }: RouteOptions): void {
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

function addPrompts(routes: Hono, options: RouteOptions): void {
  const { queue, executor } = options;
  /** Given to prompts that name no number of their own. */
  let nextNumber = 0;

  routes.get("/prompt", (c) => c.json({ exec_info: { queue_remaining: queue.remaining } }));
  routes.post("/prompt", async (c) => {
    const body = await readJson(c);
    const refuse = (error: unknown, nodeErrors: unknown = {}) => c.json({ error, node_errors: nodeErrors }, 400);
    let number = Number(body.number);
    if (body.number === undefined) {
      number = body.front ? -nextNumber : nextNumber;
      nextNumber++;
    }
    if (Number.isNaN(number)) throw new TypeError("could not convert number to float");
    if (typeof body.prompt !== "object" || body.prompt === null) {
      return refuse(validationError("no_prompt", "No prompt provided", "No prompt provided"));
    }
    const promptId = body.prompt_id ?? randomUUID();
    // The older ComfyUI takes any text. The demo engine always refuses it: what works here shall work everywhere.
    if (typeof promptId !== "string" || !canonicalUuid.test(promptId)) {
      const details = "prompt_id must be a UUID string in canonical lowercase hyphenated form";
      return refuse(validationError("invalid_prompt_id", "prompt_id must be a valid UUID", details));
    }
    const targets = Array.isArray(body.partial_execution_targets) ? body.partial_execution_targets.map(String) : null;
    const prompt = body.prompt as Record<string, unknown>;
    const { error, nodeErrors, outputs } = validateGraph(prompt, targets, options.validation);
    if (error !== null) return refuse(error, nodeErrors);
    const extraData: Record<string, unknown> = { ...(body.extra_data as object | undefined) };
    if (body.client_id !== undefined) extraData.client_id = body.client_id;
    extraData.create_time = Date.now();
    queue.put({ number, promptId, prompt: prompt as unknown as Graph, extraData, outputs });
    return c.json({ prompt_id: promptId, number, node_errors: nodeErrors });
  });

  routes.get("/queue", (c) => c.json(queue.list()));
  routes.post("/queue", async (c) => {
    const body = await readJson(c);
    if (body.clear) queue.clearPending();
    for (const id of asList(body.delete)) queue.deletePending(String(id));
    return c.body(null, 200);
  });

  routes.get("/history", (c) => {
    const read = (name: string) => (c.req.query(name) === undefined ? null : Number(c.req.query(name)));
    return c.json(queue.listHistory(read("max_items"), read("offset")));
  });
  routes.get("/history/:id", (c) => c.json(queue.findHistory(c.req.param("id"))));
  routes.post("/history", async (c) => {
    const body = await readJson(c);
    if (body.clear) queue.clearHistory();
    for (const id of asList(body.delete)) queue.deleteHistory(String(id));
    return c.body(null, 200);
  });

  routes.post("/interrupt", async (c) => {
    // Without a body, or with one that is no JSON, whatever runs is meant.
    const body = await readJson(c).catch((): Record<string, unknown> => ({}));
    executor.interrupt(typeof body.prompt_id === "string" && body.prompt_id !== "" ? body.prompt_id : null);
    return c.body(null, 200);
  });
}

/** The body as an object, whatever its Content-Type says. */
async function readJson(c: Context): Promise<Record<string, unknown>> {
  const body: unknown = JSON.parse(await c.req.text());
  if (typeof body !== "object" || body === null) throw new TypeError("the body is no object");
  return body as Record<string, unknown>;
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

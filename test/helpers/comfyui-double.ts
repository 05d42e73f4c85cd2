/**
 * A stand-in for ComfyUI's API that does what a test tells it: it plays the engine's transcript of a run, stands still
 * where it is held, forgets, drops, refuses. Written from the protocol notes; keeps the engine's quirks on purpose.
 */
import { existsSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import type { Server, ServerWebSocket } from "bun";
import type { EngineTarget } from "../../src/drivers/driver.ts";
import { type Generation, type NodeDescription, objectInfo } from "../drivers/comfyui/nodes.ts";
import { onePixel } from "./files.ts";

type Graph = Record<string, { class_type: string; inputs: Record<string, unknown> }>;
type Socket = ServerWebSocket<{ clientId: string }>;
interface Item {
  number: number;
  id: string;
  graph: Graph;
  clientId: string | undefined;
  outputs: string[];
}
type Message = [name: string, data: Record<string, unknown>];

export interface DoubleOptions {
  /** A: one node loads a training set as a batch. C: lists, "COMBO" inputs, fewer outputs of the trainer, /api/jobs. */
  generation?: Generation;
  credentials?: { username: string; password: string };
  tls?: { cert: string; key: string };
  /** Its directory of models on the host: the only way for embeddings and hypernetworks. */
  modelsDir?: string;
}

export class ComfyuiDouble {
  /** Every request as "METHOD path", and the headers it came with. */
  readonly requests: { line: string; headers: Headers; body?: string }[] = [];
  /** Every graph that was accepted, in order. */
  readonly submitted: Item[] = [];
  /** Content of the folders, by `type/subfolder/name`. */
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly checkpoints = ["v1-5-pruned-emaonly.safetensors", "v2-1_768-ema-pruned.safetensors"];
  /** Without their extension, as the engine lists them. */
  get embeddings(): string[] {
    return this.onDisk("embeddings").map((name) => name.replace(/\.[^.]*$/, ""));
  }
  get hypernetworks(): string[] {
    return this.onDisk("hypernetworks");
  }
  /** Answers in the engine's place when it returns something. */
  intercept: ((request: Request, url: URL) => Response | undefined | Promise<Response | undefined>) | null = null;
  /** Where runs stand still until `release`. */
  held: "queue" | "steps" | null = null;
  /** Sends no events to anyone, though the connections stay. */
  isMute = false;
  /** What a run dies of in its sampler or trainer. */
  failure: { exception_type: string; exception_message: string } | null = null;
  /** What a step takes at least. */
  stepMs = 0;
  /** Previews per step, in the format of the socket's client. */
  previews = 0;
  /** As a build that does not know the newer format of previews. */
  ignoresFlags = false;
  /** Said of the next graph, which is accepted all the same: one of its branches would be skipped. */
  nodeErrors: object | null = null;
  maxUploadBytes = 100 * 1024 * 1024;
  readonly info: Record<string, NodeDescription>;

  private pending: Item[] = [];
  private running: Item | null = null;
  private readonly history = new Map<string, object>();
  private readonly sockets = new Map<string, Socket>();
  private readonly announced = new Set<Socket>();
  private readonly open = new Set<Socket>();
  private counter = 0;
  private isInterrupted = false;
  private isWorking = false;
  private wakers: (() => void)[] = [];
  private readonly server: Server<{ clientId: string }>;

  constructor(private readonly options: DoubleOptions = {}) {
    this.info = objectInfo(options.generation ?? "A", this);
    this.server = Bun.serve<{ clientId: string }>({
      port: 0,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      ...(options.tls && { tls: options.tls }),
      fetch: (request, server) => this.answer(request, server),
      websocket: {
        open: (socket) => this.welcome(socket),
        message: (socket, message) => {
          if (!this.ignoresFlags && String(message).includes("supports_preview_metadata")) this.announced.add(socket);
          this.changed();
        },
        close: (socket) => {
          this.open.delete(socket);
          // The engine's trap: removed by id, also when a newer connection holds that id by now.
          this.sockets.delete(socket.data.clientId);
          this.changed();
        },
      },
    });
  }

  get target(): EngineTarget {
    const { credentials, tls } = this.options;
    return {
      host: "127.0.0.1",
      port: Number(this.server.port),
      tls: tls !== undefined,
      tlsCa: tls?.cert,
      ...credentials,
    };
  }

  get connections(): number {
    return this.open.size;
  }

  listedCheckpoints(): string[] {
    return [...this.checkpoints, ...this.below("output/checkpoints/"), ...this.onDisk("checkpoints")];
  }

  loras(): string[] {
    return this.below("output/loras/");
  }

  /** Resolves as soon as `condition` holds; looked at after every request, frame and step. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.wakers.push(resolve));
  }

  isRunning(id: string): boolean {
    return this.running?.id === id;
  }

  release(): void {
    this.held = null;
    this.changed();
    void this.work();
  }

  /** As a restart of the engine looks from outside. */
  forget(): void {
    this.pending = [];
    this.running = null;
    this.history.clear();
    this.dropSockets();
    this.changed();
  }

  /** Takes a run out of the history, which keeps only so many. */
  eraseHistory(id: string): void {
    this.history.delete(id);
  }

  /** The trap: the end of an old connection makes the engine forget the new one that has the same id. */
  loseClient(clientId: string): void {
    this.sockets.delete(clientId);
  }

  dropSockets(): void {
    for (const socket of this.open) socket.terminate();
  }

  /** To the one client, or to everybody who is connected. */
  send(name: string, data: object, clientId?: string): void {
    if (this.isMute) return;
    const message = JSON.stringify({ type: name, data });
    if (clientId === undefined) for (const socket of this.open) socket.send(message);
    else this.sockets.get(clientId)?.send(message);
  }

  sendPreview(clientId: string, promptId: string, image: Uint8Array): void {
    const socket = this.sockets.get(clientId);
    if (!socket || this.isMute) return;
    if (!this.announced.has(socket)) return void socket.send(Buffer.concat([word(1), word(1), image]));
    const metadata = new TextEncoder().encode(
      JSON.stringify({ node_id: "5", prompt_id: promptId, image_type: "image/png" }),
    );
    socket.send(Buffer.concat([word(4), word(metadata.length), metadata, image]));
  }

  async stop(): Promise<void> {
    this.forget();
    this.held = null;
    await this.server.stop(true);
  }

  /** Something happened that a test may be waiting for. */
  private changed(): void {
    const wakers = this.wakers;
    this.wakers = [];
    for (const wake of wakers) wake();
  }

  private onDisk(folder: string): string[] {
    const { modelsDir } = this.options;
    if (!modelsDir || !existsSync(join(modelsDir, folder))) return [];
    const entries = readdirSync(join(modelsDir, folder), { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(join(modelsDir, folder), join(entry.parentPath, entry.name)));
  }

  private below(prefix: string): string[] {
    return [...this.files.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  }

  private welcome(socket: Socket): void {
    const { clientId } = socket.data;
    this.open.add(socket);
    this.sockets.set(clientId, socket);
    this.send("status", { status: { exec_info: { queue_remaining: this.pending.length } }, sid: clientId }, clientId);
    // Here, and only here, without the run's id.
    if (this.running?.clientId === clientId) this.send("executing", { node: "5" }, clientId);
    this.changed();
  }

  private async answer(request: Request, server: Server<{ clientId: string }>): Promise<Response | undefined> {
    const url = new URL(request.url);
    const line = `${request.method} ${url.pathname}`;
    const isText = request.headers.get("content-type")?.includes("json") || url.pathname === "/prompt";
    const body = request.method === "POST" && isText ? await request.clone().text() : undefined;
    this.requests.push({ line, headers: request.headers, body });
    try {
      const { credentials } = this.options;
      if (credentials) {
        const expected = `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64")}`;
        if (request.headers.get("authorization") !== expected) return new Response("who?", { status: 401 });
      }
      const instead = await this.intercept?.(request, url);
      if (instead) return instead;
      if (url.pathname === "/ws") {
        server.upgrade(request, { data: { clientId: url.searchParams.get("clientId") ?? "" } });
        return undefined;
      }
      return await this.route(request, url, line);
    } finally {
      queueMicrotask(() => this.changed());
    }
  }

  private async route(request: Request, url: URL, line: string): Promise<Response> {
    const [, first = "", second = ""] = url.pathname.split("/");
    if (first === "object_info") {
      const info = this.info[second];
      return Response.json(info ? { [second]: info } : {});
    }
    if (first === "models") {
      const folder = {
        checkpoints: this.listedCheckpoints(),
        loras: this.loras(),
        hypernetworks: this.hypernetworks,
        embeddings: this.embeddings,
      }[second];
      return folder ? Response.json(folder) : new Response(null, { status: 404 });
    }
    if (first === "history" && request.method === "GET") {
      const entry = this.history.get(second);
      return Response.json(entry ? { [second]: entry } : {});
    }
    if (first === "view") return this.view(request, url);
    if (line.startsWith("POST /api/jobs/") && this.options.generation === "C") {
      const id = url.pathname.split("/")[3] ?? "";
      const cancelled = this.isRunning(id) || this.pending.some((item) => item.id === id);
      this.pending = this.pending.filter((item) => item.id !== id);
      this.isInterrupted ||= this.isRunning(id);
      return Response.json({ cancelled });
    }
    switch (line) {
      case "GET /system_stats":
        return Response.json({
          system: { os: "posix", comfyui_version: "0.3.64", python_version: "3.12" },
          devices: [{ name: "cpu", type: "cpu", index: null, vram_total: 8e9, vram_free: 6e9 }],
        });
      case "GET /features":
        return Response.json({ supports_preview_metadata: true, max_upload_size: this.maxUploadBytes });
      case "GET /embeddings":
        return Response.json(this.embeddings);
      case "GET /queue":
        return Response.json({
          queue_running: this.running ? [wire(this.running)] : [],
          queue_pending: this.pending.map(wire),
        });
      case "POST /prompt":
        return this.submit(await request.json());
      case "POST /queue": {
        const { delete: ids = [] } = (await request.json()) as { delete?: string[] };
        this.pending = this.pending.filter((item) => !ids.includes(item.id));
        return new Response();
      }
      case "POST /interrupt": {
        const { prompt_id } = (await request.json().catch(() => ({}))) as { prompt_id?: string };
        if (this.running && (!prompt_id || prompt_id === this.running.id)) this.isInterrupted = true;
        return new Response();
      }
      case "POST /upload/image":
        return this.upload(request);
      default:
        return new Response("not found", { status: 404 });
    }
  }

  private view(request: Request, url: URL): Response {
    const query = (name: string) => url.searchParams.get(name) ?? "";
    const file = this.files.get(
      [query("type") || "output", query("subfolder"), query("filename")].filter(Boolean).join("/"),
    );
    if (!file) return new Response(null, { status: 404 });
    const headers = { "content-length": String(file.length) };
    return new Response(request.method === "HEAD" ? null : file, { headers });
  }

  private async upload(request: Request): Promise<Response> {
    if (Number(request.headers.get("content-length")) > this.maxUploadBytes) return new Response(null, { status: 413 });
    const form = await request.formData();
    const file = form.get("image") as File;
    const subfolder = String(form.get("subfolder") ?? "");
    const path = [form.get("type") ?? "input", subfolder, file.name].filter(Boolean).join("/");
    this.files.set(path, new Uint8Array(await file.arrayBuffer()));
    return Response.json({ name: file.name, subfolder, type: form.get("type") ?? "input" });
  }

  private submit(body: { prompt: Graph; prompt_id: string; client_id?: string }): Response {
    const errors = validate(body.prompt, this.info);
    const outputs = Object.keys(body.prompt).filter((id) => this.info[body.prompt[id]?.class_type ?? ""]?.output_node);
    if (errors.invalid) return Response.json({ error: errors.invalid, node_errors: {} }, { status: 400 });
    if (Object.keys(errors.nodes).length > 0) {
      const error = { type: "prompt_outputs_failed_validation", message: "Prompt outputs failed validation" };
      return Response.json({ error, node_errors: errors.nodes }, { status: 400 });
    }
    const { prompt: graph, prompt_id: id, client_id: clientId } = body;
    const item = { number: this.counter++, id, graph, clientId, outputs };
    this.submitted.push(item);
    this.pending.push(item);
    void this.work();
    const node_errors = this.nodeErrors ?? {};
    this.nodeErrors = null;
    return Response.json({ prompt_id: id, number: item.number, node_errors });
  }

  /** One at a time, as the engine does. */
  private async work(): Promise<void> {
    if (this.isWorking) return;
    this.isWorking = true;
    while (this.held !== "queue") {
      const item = this.pending.shift();
      if (!item) break;
      this.running = item;
      this.isInterrupted = false;
      await this.run(item);
    }
    this.isWorking = false;
  }

  private async run(item: Item): Promise<void> {
    const messages: Message[] = [];
    const outputs: Record<string, object> = {};
    const say = (name: string, data: object = {}) => {
      const full = { prompt_id: item.id, ...data };
      if (name.startsWith("execution_")) messages.push([name, full]);
      if (item.clientId) this.send(name, full, item.clientId);
    };
    say("execution_start");
    say("execution_cached", { nodes: [] });
    let end: "success" | "error" = "success";
    for (const id of order(item.graph)) {
      const node = item.graph[id];
      if (!node) continue;
      say("executing", { node: id, display_node: id });
      const broke = await this.tick(item, id, node.class_type, say);
      if (this.running !== item) return;
      if (broke) {
        say(broke[0], { node_id: id, node_type: node.class_type, executed: [], ...broke[1] });
        end = "error";
        break;
      }
      const saved = this.save(node);
      if (saved) {
        outputs[id] = saved;
        say("executed", { node: id, display_node: id, output: saved });
      }
    }
    if (end === "success") say("execution_success");
    this.history.set(item.id, {
      prompt: wire(item),
      outputs,
      meta: {},
      status: { status_str: end, completed: end === "success", messages },
    });
    this.running = null;
    this.send("status", { status: { exec_info: { queue_remaining: this.pending.length } } });
    if (item.clientId) this.send("executing", { node: null, prompt_id: item.id }, item.clientId);
    this.changed();
  }

  /** The steps of a sampler or trainer; returns what it died of. */
  private async tick(
    item: Item,
    id: string,
    type: string,
    say: (name: string, data: object) => void,
  ): Promise<Message | null> {
    if (type !== "KSampler" && type !== "TrainLoraNode") return null;
    const max = Number(item.graph[id]?.inputs.steps);
    // The older trainer neither tells of its steps nor heeds an interrupt before the next node.
    const isSilent = type === "TrainLoraNode" && this.options.generation !== "C";
    for (let value = 1; value <= max; value++) {
      if (!isSilent) {
        say("progress_state", { nodes: { [id]: { value: value - 1, max, state: "running", node_id: id } } });
        say("progress", { value, max, node: id });
      }
      for (let count = 0; count < this.previews; count++) {
        if (item.clientId) this.sendPreview(item.clientId, item.id, new Uint8Array([value, count]));
      }
      this.changed();
      await new Promise((resolve) => (this.stepMs > 0 ? setTimeout(resolve, this.stepMs) : setImmediate(resolve)));
      // Not at the last step: a run that is held has always something left to do.
      if (value === Math.ceil(max / 2))
        await this.until(() => this.held !== "steps" || this.isInterrupted || this.running !== item);
      if (this.isInterrupted && !isSilent) return ["execution_interrupted", {}];
      if (this.failure)
        return ["execution_error", { ...this.failure, traceback: [], current_inputs: {}, current_outputs: [] }];
    }
    say("progress_state", { nodes: { [id]: { value: 1, max: 1, state: "finished", node_id: id } } });
    return this.isInterrupted ? ["execution_interrupted", {}] : null;
  }

  private save({ class_type, inputs }: Graph[string]): object | null {
    const prefix = String(inputs.filename_prefix ?? inputs.prefix ?? "");
    const subfolder = prefix.split("/").slice(0, -1).join("/");
    const name = `${prefix.split("/").at(-1)}_00001_.`;
    if (class_type === "SaveImage") {
      const filename = `${name}png`;
      this.files.set(`output/${subfolder}/${filename}`, new Uint8Array(Buffer.from(onePixel, "base64")));
      return { images: [{ filename, subfolder, type: "output" }] };
    }
    // The engine reports nothing of a saved LoRA.
    if (class_type.startsWith("SaveLoRA")) this.files.set(`output/${subfolder}/${name}safetensors`, model());
    return null;
  }
}

const wire = (item: Item) => [item.number, item.id, item.graph, { client_id: item.clientId }, item.outputs];

function word(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** A whole safetensors file: length, header, data. */
function model(): Uint8Array<ArrayBuffer> {
  const dataBytes = 300_000;
  const header = { "a.lora_up.weight": { dtype: "F32", shape: [dataBytes / 4], data_offsets: [0, dataBytes] } };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

/** Nodes after what they link to. */
function order(graph: Graph): string[] {
  const done = new Set<string>();
  const visit = (id: string) => {
    if (done.has(id)) return;
    for (const value of Object.values(graph[id]?.inputs ?? {})) if (Array.isArray(value)) visit(String(value[0]));
    done.add(id);
  };
  for (const id of Object.keys(graph)) visit(id);
  return [...done];
}

/** The checks that the engine makes of a graph, as far as ours can fall foul of them. */
function validate(graph: Graph, info: Record<string, NodeDescription>) {
  const nodes: Record<string, { class_type: string; errors: object[]; dependent_outputs: string[] }> = {};
  for (const [id, { class_type, inputs }] of Object.entries(graph)) {
    const node = info[class_type];
    if (!node) {
      const message = `Cannot execute because node ${class_type} does not exist.`;
      return { invalid: { type: "invalid_prompt", message, details: "", extra_info: {} }, nodes };
    }
    const errors: object[] = [];
    const fault = (type: string, name: string, message: string, details = name) =>
      errors.push({ type, message, details, extra_info: { input_name: name, received_value: inputs[name] } });
    for (const [name, declared] of Object.entries({ ...node.input.required, ...node.input.optional })) {
      const [type, settings = {}] = declared;
      const value = inputs[name];
      if (value === undefined) {
        if (name in node.input.required) fault("required_input_missing", name, "Required input is missing");
        continue;
      }
      if (Array.isArray(value)) {
        const [from, index] = value as [string, number];
        const received = info[graph[from]?.class_type ?? ""]?.output[index];
        if (received !== type) fault("return_type_mismatch", name, "Return type mismatch between linked nodes");
        continue;
      }
      const options = Array.isArray(type) ? type : settings.options;
      if (options && !options.includes(value)) {
        fault("value_not_in_list", name, "Value not in list", `${name}: '${value}' not in ${options}`);
      }
      if (settings.min !== undefined && Number(value) < settings.min) {
        fault("value_smaller_than_min", name, `Value ${value} smaller than min of ${settings.min}`);
      }
      if (settings.max !== undefined && Number(value) > settings.max) {
        fault("value_bigger_than_max", name, `Value ${value} bigger than max of ${settings.max}`);
      }
    }
    if (errors.length > 0) nodes[id] = { class_type, errors, dependent_outputs: [] };
  }
  return { nodes };
}

/** A plain client of the engine for its tests: real HTTP, a real WebSocket, and graphs to post. */
import { afterAll } from "bun:test";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { type DemoEngine, type DemoEngineOptions, startDemoEngine } from "../../src/demo-engine/server.ts";

export const sd15 = "v1-5-pruned-emaonly-demo.safetensors";

/** One event of the socket; binary frames have the type `binary` and their bytes. */
export interface SocketEvent {
  type: string;
  // biome-ignore lint/suspicious/noExplicitAny: events are looked at, not relied on.
  data: any;
  bytes?: Buffer;
}

// biome-ignore lint/suspicious/noExplicitAny: the same for answers.
export type Json = any;
export type Graph = Record<string, { class_type: string; inputs: Record<string, unknown> }>;

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "demo-engine-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** An engine of the test file's own, without delays, gone when the file is done. */
export async function startEngine(options: Partial<DemoEngineOptions> = {}): Promise<DemoEngine> {
  const directory = options.directory ?? temporaryDirectory();
  const engine = await startDemoEngine({ port: 0, stepMs: 0, quiet: true, ...options, directory });
  afterAll(() => engine.stop());
  return engine;
}

export async function getJson(engine: DemoEngine, path: string): Promise<Json> {
  return (await fetch(engine.url + path)).json();
}

export function post(engine: DemoEngine, path: string, body: unknown): Promise<Response> {
  return fetch(engine.url + path, { method: "POST", body: JSON.stringify(body) });
}

export interface Upload {
  name: string;
  bytes: Uint8Array | string;
  type?: string;
  subfolder?: string;
  overwrite?: string;
}

export function upload(engine: DemoEngine, { name, bytes, ...fields }: Upload): Promise<Response> {
  const form = new FormData();
  form.set("image", new File([typeof bytes === "string" ? bytes : new Uint8Array(bytes)], name));
  for (const [field, value] of Object.entries(fields)) form.set(field, value);
  return fetch(`${engine.url}/upload/image`, { method: "POST", body: form });
}

export async function view(engine: DemoEngine, query: Record<string, string>): Promise<Response> {
  return fetch(`${engine.url}/view?${new URLSearchParams(query)}`);
}

/** A socket that keeps all events and lets a test wait for one. */
export class Listener {
  readonly events: SocketEvent[] = [];
  private waiting: { matches: (event: SocketEvent) => boolean; resolve: (event: SocketEvent) => void }[] = [];

  private constructor(
    private readonly engine: DemoEngine,
    readonly clientId: string,
    readonly socket: WebSocket,
  ) {}

  /** Connects and waits for the first status. */
  static async open(engine: DemoEngine, clientId: string = randomUUID(), path = "/ws"): Promise<Listener> {
    const socket = new WebSocket(`${engine.url.replace("http", "ws")}${path}?clientId=${clientId}`);
    socket.binaryType = "arraybuffer";
    const listener = new Listener(engine, clientId, socket);
    socket.onmessage = ({ data }) => listener.receive(data);
    await listener.next((event) => event.type === "status");
    return listener;
  }

  private receive(data: string | ArrayBuffer): void {
    const event: SocketEvent =
      typeof data === "string" ? JSON.parse(data) : { type: "binary", data: null, bytes: Buffer.from(data) };
    this.events.push(event);
    this.waiting = this.waiting.filter((waiter) => {
      if (waiter.matches(event)) waiter.resolve(event);
      return !waiter.matches(event);
    });
  }

  /** The first event, past or to come, that matches. */
  next(matches: (event: SocketEvent) => boolean): Promise<SocketEvent> {
    const past = this.events.find(matches);
    if (past !== undefined) return Promise.resolve(past);
    return new Promise((resolve) => this.waiting.push({ matches, resolve }));
  }

  progressOf(promptId: string): Promise<SocketEvent> {
    return this.next(({ type, data }) => type === "progress" && data.prompt_id === promptId);
  }

  endOf(promptId: string): Promise<SocketEvent> {
    return this.next(({ type, data }) => type === "executing" && data.node === null && data.prompt_id === promptId);
  }

  /** Events of one prompt by type, without the many `progress_state`. */
  typesOf(promptId: string): string[] {
    return this.events
      .filter(({ type, data }) => data?.prompt_id === promptId && type !== "progress_state")
      .map(({ type }) => type);
  }

  /** Posts a graph for this client and answers its id; the post must be accepted. */
  async post(prompt: Graph, more: Record<string, unknown> = {}): Promise<string> {
    const response = await post(this.engine, "/prompt", {
      prompt,
      prompt_id: randomUUID(),
      client_id: this.clientId,
      ...more,
    });
    const answer: Json = await response.json();
    if (response.status !== 200) throw new Error(JSON.stringify(answer));
    return answer.prompt_id;
  }

  /** Posts a graph, waits for its end and answers its entry of the history. */
  async run(prompt: Graph, more: Record<string, unknown> = {}): Promise<Json> {
    const id = await this.post(prompt, more);
    await this.endOf(id);
    return (await getJson(this.engine, `/history/${id}`))[id];
  }

  /** Runs a graph with one SaveImage and answers the picture's bytes. */
  async draw(prompt: Graph): Promise<Buffer> {
    const entry = await this.run(prompt);
    const [output]: Json[] = Object.values(entry.outputs);
    if (output === undefined) throw new Error(JSON.stringify(entry.status));
    const response = await view(this.engine, output.images[0]);
    return Buffer.from(await response.arrayBuffer());
  }
}

export interface PictureSettings {
  text?: string;
  negative?: string;
  seed?: number;
  width?: number;
  height?: number;
  steps?: number;
  cfg?: number;
  sampler?: string;
  lora?: string;
  weight?: number;
  /** LoadImage's name: makes it an img2img. */
  from?: string;
  denoise?: number;
}

let prefixes = 0;

/** Text (and picture) to picture, under a prefix of its own so that nothing of it is cached. */
export function pictureGraph(settings: PictureSettings = {}): Graph {
  const { width = 64, height = 64, lora, from } = settings;
  const graph: Graph = {
    loader: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: sd15 } },
    positive: { class_type: "CLIPTextEncode", inputs: { text: settings.text ?? "a lake", clip: ["loader", 1] } },
    negative: { class_type: "CLIPTextEncode", inputs: { text: settings.negative ?? "", clip: ["loader", 1] } },
    latent: { class_type: "EmptyLatentImage", inputs: { width, height, batch_size: 1 } },
    sampler: {
      class_type: "KSampler",
      inputs: {
        model: [lora === undefined ? "loader" : "lora", 0],
        seed: settings.seed ?? 1,
        steps: settings.steps ?? 3,
        cfg: settings.cfg ?? 7,
        sampler_name: settings.sampler ?? "euler",
        scheduler: "normal",
        positive: ["positive", 0],
        negative: ["negative", 0],
        latent_image: ["latent", 0],
        denoise: settings.denoise ?? 1,
      },
    },
    decoder: { class_type: "VAEDecode", inputs: { samples: ["sampler", 0], vae: ["loader", 2] } },
    save: { class_type: "SaveImage", inputs: { images: ["decoder", 0], filename_prefix: `jobs/${++prefixes}/img` } },
  };
  if (lora !== undefined) {
    const strength = settings.weight ?? 1;
    graph.lora = {
      class_type: "LoraLoader",
      inputs: {
        model: ["loader", 0],
        clip: ["loader", 1],
        lora_name: lora,
        strength_model: strength,
        strength_clip: strength,
      },
    };
  }
  if (from !== undefined) {
    graph.image = { class_type: "LoadImage", inputs: { image: from } };
    graph.scaled = {
      class_type: "ImageScale",
      inputs: { image: ["image", 0], upscale_method: "lanczos", width, height, crop: "center" },
    };
    graph.latent = { class_type: "VAEEncode", inputs: { pixels: ["scaled", 0], vae: ["loader", 2] } };
  }
  return graph;
}

export const trainingInputs = {
  batch_size: 1,
  grad_accumulation_steps: 1,
  steps: 20,
  learning_rate: 0.0005,
  rank: 4,
  optimizer: "AdamW",
  loss_function: "MSE",
  seed: 1,
  training_dtype: "fp32",
  lora_dtype: "fp32",
  algorithm: "LoRA",
  gradient_checkpointing: true,
  existing_lora: "[None]",
};

/** A training as ComfyUI 0.3.64 wants it. */
export function trainingGraph(folder: string, prefix: string, overrides: Record<string, unknown> = {}): Graph {
  return {
    loader: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: sd15 } },
    set: {
      class_type: "LoadImageTextSetFromFolderNode",
      inputs: { folder, clip: ["loader", 1], resize_method: "Crop", width: 64, height: 64 },
    },
    latents: { class_type: "VAEEncode", inputs: { pixels: ["set", 0], vae: ["loader", 2] } },
    train: {
      class_type: "TrainLoraNode",
      inputs: {
        model: ["loader", 0],
        latents: ["latents", 0],
        positive: ["set", 1],
        ...trainingInputs,
        ...overrides,
      },
    },
    save: { class_type: "SaveLoRANode", inputs: { lora: ["train", 1], prefix } },
  };
}

/** A picture of two flat colours, with a border between them to learn. */
export function twoColors(left: string, right: string): Promise<Buffer> {
  const half = (x: number, fill: string) => `<rect x="${x}" width="48" height="96" fill="${fill}"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96">${half(0, left)}${half(48, right)}</svg>`;
  return sharp(Buffer.from(svg)).png().toBuffer();
}

/** Uploads three captioned pictures of two colours into an input folder. */
export async function uploadDataset(engine: DemoEngine, subfolder: string, left: string, right: string): Promise<void> {
  for (const number of [1, 2, 3]) {
    await upload(engine, { name: `${number}.png`, bytes: await twoColors(left, right), subfolder });
    await upload(engine, { name: `${number}.txt`, bytes: `flag, number ${number}`, subfolder });
  }
}

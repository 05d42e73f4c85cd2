/**
 * A stand-in for AUTOMATIC1111's web UI and its relatives that does what a test tells it. Written from the protocol
 * notes; keeps the quirks on purpose: it answers when the work is done and keeps no result, replaces what it does not
 * know in silence, interrupts whatever runs, and trains beside its own queue.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import type { Server } from "bun";
import type { EngineTarget } from "../../src/drivers/driver.ts";
import { onePixel } from "./files.ts";

export interface A1111DoubleOptions {
  family?: "A1111" | "Forge" | "SD.Next";
  credentials?: { username: string; password: string };
  /** A proxy in front asks for the credentials, on every path. */
  isProxied?: boolean;
  /** Its directory, as its own host sees it: models are looked up there, trainings end there. */
  directory?: string;
  /** False as before 1.8: the ids that clients choose are not heeded. */
  hasTaskIds?: boolean;
  /** Least time of a step. */
  stepMs?: number;
}

interface Job {
  /** The task's id, or the trained model's name. */
  id: string;
  isTraining: boolean;
}
type Body = Record<string, unknown>;

const samplers = {
  A1111: ["DPM++ 2M", "Euler a", "Euler", "LMS", "DDIM", "PLMS"],
  "SD.Next": ["DPM++ 2M", "Euler a", "Euler", "LMSD", "DDIM", "PNDM"],
};
export class A1111Double {
  /** Every request as "METHOD path", with its JSON body. */
  readonly requests: { line: string; headers: Headers; body: Body }[] = [];
  /** Titles of the checkpoints; the first is loaded. */
  readonly checkpoints = ["v1-5-pruned-emaonly.safetensors [6ce0161689]", "v2-1_768-ema-pruned.safetensors"];
  samplers: string[];
  /** Those of the engine's owner. */
  readonly ownEmbeddings = ["easynegative"];
  /** The loaded checkpoint is of another width than all embeddings but the owner's. */
  skipsEmbeddings = false;
  /** Runs stand still in the midst of their steps until `release`. */
  isHeld = false;
  /** Answers in the engine's place when it returns something. */
  intercept: ((body: Body, url: URL) => Response | undefined | Promise<Response | undefined>) | null = null;
  /** What the next run dies of, as the engine tells it. */
  failure: { status: number; body: object } | null = null;
  /** What trainings end with; "None" is well. */
  trainingError = "None";
  /** A picture while the steps go on, with a new id at each. */
  hasPreviews = false;
  /** Answers with this picture's bytes in base64. */
  picture = onePixel;
  /** Seconds that the engine believes to need still. */
  eta: number | null = null;
  /** Arguments that this build's training functions do not take, and further ones that they want. */
  unexpected: string[] = [];
  missing: string[] = [];

  private loaded: string;
  private readonly known = new Set<string>();
  private readonly waiting: Job[] = [];
  private running: Job | null = null;
  /** The quirk: of a run that broke, it is still told that it is active. */
  private current: string | null = null;
  private readonly trainings = new Set<Job>();
  private finished: string[] = [];
  private state = idle();
  private textinfo: string | null = null;
  private previewId = 0;
  private generation = 0;
  private begun = 0;
  private isForeignDone = false;
  private wakers: (() => void)[] = [];
  private server: Server<undefined>;

  constructor(private readonly options: A1111DoubleOptions = {}) {
    this.samplers = [...samplers[this.family === "SD.Next" ? "SD.Next" : "A1111"]];
    this.loaded = this.checkpoints[0] ?? "";
    for (const folder of Object.values(folders))
      if (options.directory) mkdirSync(join(options.directory, folder), { recursive: true });
    this.refresh();
    this.server = this.listen(0);
  }

  private get family() {
    return this.options.family ?? "A1111";
  }

  get target(): EngineTarget {
    const { credentials, directory } = this.options;
    return { host: "127.0.0.1", port: Number(this.server.port), tls: false, ...credentials, sharedDir: directory };
  }

  isRunning(runId: string): boolean {
    return [this.running, ...this.trainings].some((job) => job?.id.includes(runId));
  }

  isWaiting(runId: string): boolean {
    return this.waiting.some((job) => job.id.includes(runId));
  }

  /** How often the engine was given the run. */
  submissions(runId: string): number {
    const work = ["txt2img", "img2img", "train/embedding", "train/hypernetwork"].map(
      (path) => `POST /sdapi/v1/${path}`,
    );
    return this.requests.filter(({ line, body }) => work.includes(line) && JSON.stringify(body).includes(runId)).length;
  }

  sent(line: string): Body[] {
    return this.requests.filter((request) => request.line === line).map(({ body }) => body);
  }

  release(): void {
    this.isHeld = false;
    this.changed();
  }

  /** Somebody else's picture, which lasts while the engine is held. */
  async foreign(id = "task(somebody)"): Promise<void> {
    void this.generate({ force_task_id: id, steps: 4, sampler_name: "Euler" }).catch(() => {});
    await this.until(() => this.running?.id === id || this.waiting.some((job) => job.id === id));
  }

  /** Lets somebody else's picture end while all others stay held. */
  finishForeign(): void {
    this.isForeignDone = true;
    this.changed();
  }

  /** As a request that came in without anybody waiting for its answer. */
  async submit(body: Body): Promise<void> {
    await this.generate(body);
  }

  /** Dies and comes back with nothing in memory; its disk stays. */
  async restart(): Promise<void> {
    const port = Number(this.server.port);
    this.forget();
    this.refresh();
    await this.server.stop(true);
    this.server = this.listen(port);
  }

  /** Cuts every open connection; what runs goes on. */
  cut(): void {
    const port = Number(this.server.port);
    // Not awaited: it waits for the handlers, which go on.
    void this.server.stop(true);
    this.server = this.listen(port);
  }

  async stop(): Promise<void> {
    this.forget();
    this.isHeld = false;
    await this.server.stop(true);
  }

  /** Resolves as soon as `condition` holds; looked at after every request and step. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.wakers.push(resolve));
  }

  private pause(): Promise<void> {
    const { stepMs } = this.options;
    return new Promise((resolve) => (stepMs ? setTimeout(resolve, stepMs) : setImmediate(resolve)));
  }

  private changed(): void {
    const wakers = this.wakers;
    this.wakers = [];
    for (const wake of wakers) wake();
  }

  private forget(): void {
    this.generation += 1;
    this.waiting.length = 0;
    this.running = null;
    this.current = null;
    this.trainings.clear();
    this.finished = [];
    this.state = idle();
    this.textinfo = null;
    this.changed();
  }

  /** As if it had looked at its folders again. */
  reread(): void {
    mkdirSync(join(this.options.directory ?? "", folders.loras), { recursive: true });
    this.refresh();
  }

  /** Reads the folders of models anew. */
  private refresh(type?: keyof typeof folders): void {
    for (const kind of type ? [type] : (Object.keys(folders) as (keyof typeof folders)[])) {
      for (const name of [...this.known]) if (name.startsWith(`${kind}/`)) this.known.delete(name);
      const { directory } = this.options;
      if (!directory) continue;
      for (const path of readdirSync(join(directory, folders[kind]), { recursive: true }) as string[]) {
        if ([".pt", ".safetensors", ".ckpt"].includes(extname(path))) this.known.add(`${kind}/${path}`);
      }
    }
  }

  private listed(kind: keyof typeof folders): string[] {
    const prefix = `${kind}/`;
    return [...this.known].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  }

  private stems = (kind: keyof typeof folders): string[] =>
    this.listed(kind).map((path) => basename(path, extname(path)));

  private titles(): string[] {
    return [...this.checkpoints, ...this.listed("checkpoints")];
  }

  private listen(port: number): Server<undefined> {
    return Bun.serve({ port, hostname: "127.0.0.1", idleTimeout: 0, fetch: (request) => this.answer(request) });
  }

  private async answer(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const line = `${request.method} ${url.pathname}`;
    const body = request.method === "POST" ? ((await request.json().catch(() => ({}))) as Body) : {};
    this.requests.push({ line, headers: request.headers, body });
    try {
      const { credentials, isProxied = false } = this.options;
      if (credentials && (isProxied || url.pathname.startsWith("/sdapi/"))) {
        const expected = `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64")}`;
        if (request.headers.get("authorization") !== expected) {
          return Response.json({ detail: "Incorrect username or password" }, { status: 401 });
        }
      }
      return (await this.intercept?.(body, url)) ?? (await this.route(line, url, body));
    } finally {
      queueMicrotask(() => this.changed());
    }
  }

  private async route(line: string, url: URL, body: Body): Promise<Response> {
    const posts: Record<string, () => Response | Promise<Response>> = {
      "/sdapi/v1/txt2img": () => this.generate(body),
      "/sdapi/v1/img2img": () =>
        body.init_images
          ? this.generate(body)
          : Response.json({ error: "HTTPException", detail: "Init image not found" }, { status: 404 }),
      "/internal/progress": () => Response.json(this.taskProgress(String(body.id_task), body.id_live_preview)),
      "/sdapi/v1/interrupt": () => {
        this.state.interrupted = true;
        return Response.json({});
      },
      "/sdapi/v1/refresh-checkpoints": () => this.refreshed("checkpoints"),
      "/sdapi/v1/refresh-loras": () => this.refreshed("loras"),
      ...(this.family === "SD.Next" ? {} : { "/sdapi/v1/refresh-embeddings": () => this.refreshed("embeddings") }),
      ...(this.family === "A1111"
        ? {
            "/sdapi/v1/create/embedding": () => this.create("embeddings", body),
            "/sdapi/v1/create/hypernetwork": () => this.create("hypernetworks", body),
            "/sdapi/v1/train/embedding": () => this.train("embeddings", body),
            "/sdapi/v1/train/hypernetwork": () => this.train("hypernetworks", body),
          }
        : {}),
    };
    const post = posts[url.pathname];
    if (post && line.startsWith("POST ")) return post();
    if (line === "POST /sdapi/v1/options") {
      const wanted = this.titles().find((title) => title === body.sd_model_checkpoint);
      if (!wanted) return Response.json({ error: "RuntimeError", errors: "model not found" }, { status: 500 });
      this.loaded = wanted;
      return Response.json(null);
    }
    if (line.startsWith("GET ")) {
      const found = this.describe(url.pathname);
      if (found !== undefined) return Response.json(found);
    }
    return Response.json({ detail: "Not Found" }, { status: post ? 405 : 404 });
  }

  private describe(path: string): unknown {
    switch (path) {
      case "/sdapi/v1/progress":
        return { progress: 0, eta_relative: 0, state: this.state, current_image: null, textinfo: this.textinfo };
      case "/sdapi/v1/samplers":
        return this.samplers.map((name) => ({ name, aliases: [`k_${name.toLowerCase()}`], options: {} }));
      case "/sdapi/v1/schedulers":
        if (this.family === "SD.Next" || this.options.hasTaskIds === false) return undefined;
        return ["Automatic", "Uniform", "Karras"].map((label) => ({ name: label.toLowerCase(), label }));
      case "/sdapi/v1/sd-models":
        return this.titles().map((title) => ({
          title,
          model_name: basename(title.split(" ")[0] ?? "", extname(title.split(" ")[0] ?? "")),
          hash: title.match(/\[(\w+)\]/)?.[1] ?? null,
          sha256: null,
          filename: `/opt/webui/models/Stable-diffusion/${title.split(" ")[0]}`,
          config: null,
        }));
      case "/sdapi/v1/loras":
        return this.stems("loras").map((name) => ({ name, alias: name, path: `/opt/${name}`, metadata: {} }));
      case "/sdapi/v1/hypernetworks":
        return this.stems("hypernetworks").map((name) => ({ name, path: `/opt/${name}.pt` }));
      case "/sdapi/v1/embeddings": {
        const describe = (names: string[]) => Object.fromEntries(names.map((name) => [name, { step: 1 }]));
        const ours = this.stems("embeddings");
        return this.skipsEmbeddings
          ? { loaded: describe(this.ownEmbeddings), skipped: describe(ours) }
          : { loaded: describe([...this.ownEmbeddings, ...ours]), skipped: {} };
      }
      case "/sdapi/v1/options":
        return {
          sd_model_checkpoint: this.loaded,
          lora_add_hashes_to_infotext: true,
          ...(this.family === "SD.Next" ? {} : { img2img_fix_steps: false }),
        };
      case "/sdapi/v1/memory":
        return { ram: { free: 6e9, used: 2e9, total: 8e9 }, cuda: { error: "unavailable" } };
      case "/sdapi/v1/cmd-flags":
        return { embeddings_dir: join(this.options.directory ?? "/opt/webui", "embeddings") };
      case "/sdapi/v1/version":
        return this.family === "SD.Next" ? { app: "sd.next", updated: "2025-03-02" } : undefined;
      case "/sdapi/v1/sd-modules":
        return this.family === "Forge" ? [] : undefined;
      case "/internal/pending-tasks":
        return { size: this.waiting.length, tasks: this.waiting.map(({ id }) => id) };
      default:
        return undefined;
    }
  }

  private refreshed(kind: keyof typeof folders): Response {
    this.refresh(kind);
    return Response.json({});
  }

  private taskProgress(id: string, previewId: unknown) {
    const active = this.current === id;
    const queued = this.waiting.some((job) => job.id === id);
    const base = { active, queued, completed: this.finished.includes(id) };
    if (!active) {
      const place = this.waiting.findIndex((job) => job.id === id) + 1;
      const textinfo = queued ? `In queue: ${place}/${this.waiting.length}` : "Waiting...";
      return { ...base, id_live_preview: -1, textinfo };
    }
    const hasPreview = this.hasPreviews && this.previewId > 0 && previewId !== this.previewId;
    return {
      ...base,
      progress: this.state.sampling_steps ? this.state.sampling_step / this.state.sampling_steps : 0,
      eta: this.eta,
      live_preview: hasPreview ? `data:image/png;base64,${onePixel}` : null,
      id_live_preview: this.previewId,
      textinfo: this.textinfo,
    };
  }

  private async generate(body: Body): Promise<Response> {
    if (typeof body.steps !== "number") {
      return Response.json(
        { detail: [{ loc: ["body", "steps"], msg: "value is not a valid integer" }] },
        { status: 422 },
      );
    }
    const sampler = this.samplers.includes(String(body.sampler_name)) ? String(body.sampler_name) : this.samplers[0];
    const id = this.options.hasTaskIds === false ? `task(${crypto.randomUUID()})` : String(body.force_task_id);
    const job = { id, isTraining: false };
    const { generation } = this;
    this.waiting.push(job);
    this.changed();
    await this.until(() => (this.running === null && this.waiting[0] === job) || this.generation !== generation);
    if (this.generation !== generation) return new Response(null, { status: 500 });
    this.waiting.shift();
    this.running = job;
    this.current = id;
    this.begin({ job: "scripts_txt2img", job_count: 1, sampling_steps: body.steps });
    const { job_timestamp } = this.state;
    this.previewId = 0;
    const settings = (body.override_settings ?? {}) as Body;
    // Unknown: dropped without a word.
    this.loaded = this.titles().find((title) => title === settings.sd_model_checkpoint) ?? this.loaded;
    for (let step = 1; step <= body.steps && !this.state.interrupted; step++) {
      this.state.sampling_step = step;
      this.previewId += 1;
      this.changed();
      await this.pause();
      if (step === Math.ceil(body.steps / 2)) {
        const isLet = () => !this.isHeld || (this.isForeignDone && id === "task(somebody)");
        await this.until(() => isLet() || this.state.interrupted || this.generation !== generation);
      }
      if (this.generation !== generation) return new Response(null, { status: 500 });
    }
    this.running = null;
    if (!this.failure) {
      this.current = null;
      this.finished = [...this.finished, id].slice(-16);
    }
    this.end();
    this.changed();
    const { failure } = this;
    this.failure = null;
    if (failure) return Response.json(failure.body, { status: failure.status });
    const prompt = String(body.prompt);
    const loras = [...prompt.matchAll(/<lora:([^:>]+):/g)].map(([, name = ""]) => name);
    const used = loras.filter((name) => this.stems("loras").includes(name));
    const info = {
      seed: body.seed,
      sampler_name: sampler,
      sd_model_name: basename(this.loaded.split(" ")[0] ?? "", extname(this.loaded.split(" ")[0] ?? "")),
      sd_model_hash: this.loaded.match(/\[(\w+)\]/)?.[1] ?? null,
      index_of_first_image: 0,
      job_timestamp,
      extra_generation_params:
        used.length > 0 ? { "Lora hashes": used.map((name) => `${name}: 0123456789ab`).join(", ") } : {},
      infotexts: [`${prompt}\nSteps: ${body.steps}, Sampler: ${sampler}`],
    };
    return Response.json({ images: [this.picture], parameters: {}, info: JSON.stringify(info) });
  }

  private begin(state: Partial<ReturnType<typeof idle>>): void {
    this.begun += 1;
    // Its second, as if pictures took that long.
    this.state = { ...idle(), job_timestamp: String(20261125000000 + this.begun), ...state };
  }

  private end(): void {
    const { interrupted, job_timestamp } = this.state;
    this.state = { ...idle(), interrupted, job_timestamp };
  }

  private create(kind: "embeddings" | "hypernetworks", body: Body): Response {
    const path = this.modelPath(kind, String(body.name));
    if (existsSync(path) && !body.overwrite_old) {
      return Response.json({ info: `create embedding error: file ${path} already exists` });
    }
    writeFileSync(path, `untrained ${body.name}`);
    this.refresh(kind);
    return Response.json({ info: `create embedding filename: ${path}` });
  }

  private modelPath(kind: keyof typeof folders, name: string): string {
    return join(this.options.directory ?? "/nowhere", folders[kind], `${name}.pt`);
  }

  /** Beside the queue, as the engine does it: nothing but its clients keeps two trainings apart. */
  private async train(kind: "embeddings" | "hypernetworks", body: Body): Promise<Response> {
    const ended = (error: string) => Response.json({ info: `train embedding complete: filename:  error: ${error}` });
    const unexpected = this.unexpected.find((name) => name in body);
    if (unexpected) return ended(`train_embedding() got an unexpected keyword argument '${unexpected}'`);
    const missing = this.missing.filter((name) => !(name in body));
    if (missing.length > 0) {
      const list = missing.map((name) => `'${name}'`).join(" and ");
      return ended(`train_embedding() missing ${missing.length} required positional argument: ${list}`);
    }
    const name = String(kind === "embeddings" ? body.embedding_name : body.hypernetwork_name);
    const every = Number(kind === "embeddings" ? body.save_embedding_every : body.save_hypernetwork_every);
    const dataRoot = String(body.data_root);
    if (!this.stems(kind).includes(name)) return ended(`'${name}'`);
    if (!existsSync(dataRoot) || readdirSync(dataRoot).length === 0) return ended("Dataset directory is empty");
    const steps = Number(body.steps);
    const job = { id: name, isTraining: true };
    const { generation } = this;
    this.trainings.add(job);
    this.begin({ job: "train-embedding", job_count: steps });
    this.textinfo = `Preparing dataset from ${dataRoot}...`;
    const log = join(String(body.log_directory), "2026-11-25", name);
    const saved = join(log, kind);
    if (every > 0) mkdirSync(saved, { recursive: true });
    let last = "<none>";
    for (let step = 0; step < steps && !this.state.interrupted; step++) {
      if (every > 0 && (step + 1) % every === 0) {
        last = join(saved, `${name}-${step + 1}.pt`);
        writeFileSync(last, `${name} at ${step + 1}`);
      }
      this.state.job_no = step + 1;
      this.textinfo = `<p>\nLoss: ${(1 / (step + 1)).toFixed(7)}<br/>\nStep: ${step + 1}<br/>\nLast prompt: x<br/>\nLast saved embedding: ${last}<br/>\n</p>`;
      this.changed();
      await this.pause();
      if (step + 1 === Math.ceil(steps / 2)) {
        await this.until(() => !this.isHeld || this.state.interrupted || this.generation !== generation);
      }
      if (this.generation !== generation) return new Response(null, { status: 500 });
    }
    this.trainings.delete(job);
    const path = this.modelPath(kind, name);
    if (this.trainingError === "None") writeFileSync(path, `trained ${name}`);
    else rmSync(join(dirname(saved), kind), { recursive: true, force: true });
    this.end();
    this.changed();
    return Response.json({ info: `train embedding complete: filename: ${path} error: ${this.trainingError}` });
  }
}

const folders = {
  loras: "models/Lora",
  checkpoints: "models/Stable-diffusion",
  embeddings: "embeddings",
  hypernetworks: "models/hypernetworks",
} as const;

function idle() {
  return {
    skipped: false,
    interrupted: false,
    job: "",
    job_count: 0,
    job_timestamp: "0",
    job_no: 0,
    sampling_step: 0,
    sampling_steps: 0,
  };
}

/** A whole system in one process: the API on a port, a worker, and demo engines registered as servers. */
import { join } from "node:path";
import { startWorker, type Worker } from "../../jobs/index.ts";
import type { Config } from "../../src/config.ts";
import { type DemoEngine, type DemoEngineOptions, startDemoEngine } from "../../src/demo-engine/server.ts";
import { temporaryDirectory } from "../../src/storage/index.ts";
import { createWebhookGuard } from "../../src/webhooks/guard.ts";
import { type Account, type Json, startApp, type TestApp } from "./app.ts";
import { eventually, listen } from "./socket.ts";

export interface EngineOptions {
  name: string;
  type: "train" | "infer";
  /** Least time of a step; 0 is as fast as the machine can. */
  stepMs?: number;
  /** Valid results in no time. */
  instant?: boolean;
  /** Let faults be asked for, see the demo engine's. */
  faults?: DemoEngineOptions["faults"];
  slots?: number;
}

export interface PooledEngine {
  engine: DemoEngine;
  serverId: number;
  /** Ids of the runs that wait or run there. */
  queue(): Promise<string[]>;
  /** Ids of the runs that have ended there. */
  history(): Promise<string[]>;
  /** Breaks off everything, as a crash would. */
  kill(): Promise<void>;
  /** The same engine, on the same port and directory, with an empty queue and history. */
  restart(): Promise<void>;
}

export type Pool = Awaited<ReturnType<typeof startPool>>;

/** With no worker of its own, nothing happens until one is added. */
export async function startPool({
  engines,
  workers = 1,
  config = {},
}: {
  engines: EngineOptions[];
  workers?: number;
  config?: Partial<Config>;
}) {
  const app = await startApp(config);
  const server = await listen(app);
  const admin = await app.admin();
  const pooled = new Map<string, PooledEngine>();
  const started: Worker[] = [];
  for (let i = 0; i < workers; i += 1) started.push(await addWorker(app));
  for (const options of engines) pooled.set(options.name, await addEngine(app, admin, options));
  if (workers > 0) await Promise.all([...pooled.values()].map(({ serverId }) => untilServer(app, serverId, "ready")));

  return {
    ...app,
    server,
    admin,
    workers: started,
    async addWorker(): Promise<Worker> {
      const worker = await addWorker(app);
      started.push(worker);
      return worker;
    },
    engine(name: string): PooledEngine {
      const found = pooled.get(name);
      if (!found) throw new Error(`there is no engine ${name}`);
      return found;
    },
    untilServer: (serverId: number, status: string) => untilServer(app, serverId, status),
    /** Waits for a task's end on its own socket. */
    async finished(taskId: number): Promise<Json> {
      const watch = await server.watch(`tasks/${taskId}`, { token: admin.token });
      await watch.until(({ status }) => ["success", "error", "canceled"].includes(status));
      await watch.close();
      return (await app.call("GET", `/api/tasks/${taskId}`, { token: admin.token })).body;
    },
    /** A data set of `count` fresh pictures. */
    async makeDataset(token: string, count = 3, fields: Json = {}): Promise<Json> {
      const files = await Promise.all(Array.from({ length: count }, () => app.upload(token)));
      return app.make("datasets", token, { images: files.map((file) => file.url), ...fields });
    },
    get: async (path: string, token: string): Promise<Json> => (await app.call("GET", `/api/${path}`, { token })).body,
    /** The bytes behind a URL that the API has shown. */
    async download(url: string, token?: string): Promise<Buffer> {
      const headers: HeadersInit = token ? { Authorization: `Bearer ${token}` } : {};
      const response = await app.fetch(new Request(url, { headers }));
      if (response.status !== 200) throw new Error(`${url}: ${response.status}`);
      return Buffer.from(await response.arrayBuffer());
    },
  };
}

export async function addWorker(app: TestApp): Promise<Worker> {
  const { sql, secrets, storage, log, databaseUrl } = app;
  const worker = await startWorker(
    {
      sql,
      secrets,
      storage,
      log,
      webhooks: createWebhookGuard(app.config.webhookNetworks),
      temporaryDirectory: temporaryDirectory(app.config),
    },
    { databaseUrl, concurrency: 4, maxRunning: app.config.maxRunningPerUser },
  );
  let stopped: Promise<void> | undefined;
  const stop = () => (stopped ??= worker.stop());
  app.onClose(stop);
  return { ...worker, stop };
}

async function addEngine(
  app: TestApp,
  admin: Account,
  { name, type, stepMs = 0, slots, instant, faults }: EngineOptions,
) {
  const directory = join(app.directory, `engine-${name}`);
  const start = (port: number) => startDemoEngine({ port, directory, stepMs, instant, faults, quiet: true });
  let engine = await start(0);
  app.onClose(() => engine.stop());
  const { port } = engine;
  const { id } = await app.make("servers", admin.token, { name, type, ip: "127.0.0.1", port, slots });
  const ask = async (path: string): Promise<Json> => (await fetch(`http://127.0.0.1:${port}${path}`)).json();
  const pooled: PooledEngine = {
    get engine() {
      return engine;
    },
    serverId: id,
    async queue() {
      const { queue_running, queue_pending } = await ask("/queue");
      return [...queue_running, ...queue_pending].map((entry: Json) => entry[1]);
    },
    history: async () => Object.keys(await ask("/history")),
    kill: () => engine.stop(),
    async restart() {
      engine = await start(port);
    },
  };
  return pooled;
}

function untilServer(app: TestApp, serverId: number, status: string): Promise<unknown> {
  const ask = () => app.sql<{ status: string }[]>`select status from servers where id = ${serverId}`;
  return eventually(ask, ([row]) => row?.status === status);
}

/** Everything that `up` starts, the order in which it comes and goes, and what depends on what. */
import { resolve } from "node:path";
import type { Config } from "../config.ts";
import { connect } from "../db/client.ts";
import { type Embedded, startEmbedded } from "../db/embedded.ts";
import { migrate } from "../db/migrate.ts";
import type { ProcessId } from "../db/process-table.ts";
import { ensureAdmin, ensureDemoServers } from "../seed.ts";
import { checkAddress, localUrl } from "./address.ts";
import { type DemoEngine, startEngines } from "./engines.ts";
import { type Lock, takeLock } from "./lock.ts";
import type { Summary } from "./summary.ts";
import { type Child, supervise } from "./supervisor.ts";
import { UpError } from "./up-error.ts";

const source = resolve(import.meta.dirname, "..");

/** An API that takes longer than this to answer, after the database was ready, will not answer. */
const readyTimeoutMs = 60_000;

/** How long each part may take to stop. With all of them at their limit: 9 s, and the database. */
const limits = { startMs: 5_000, apiMs: 4_500, workerMs: 3_500, engineMs: 1_000 };

export interface House {
  /** Settles when the API answers. Throws UpError or DatabaseError, or an AbortError once `signal` says so. */
  start(): Promise<Summary>;
  /** Ends what was started, in order, after a start under way has come to its next step. */
  stop(): Promise<void>;
  /** At once and without order, for a second Ctrl-C. */
  kill(): void;
}

export function openHouse(
  config: Config,
  { signal, onGiveUp }: { signal: AbortSignal; onGiveUp: (line: string) => void },
): House {
  const startedAt = Date.now();
  let lock: Lock | null = null;
  let database: Embedded | null = null;
  let api: Child | null = null;
  let worker: Child | null = null;
  let engines: DemoEngine[] = [];
  let starting: Promise<Summary> | undefined;

  const children = () => [api, worker, ...engines.map((engine) => engine.child)].filter((child) => child !== null);
  const processes = () => children().flatMap((child): ProcessId[] => [child.process()].filter((id) => id !== null));
  const hooks = { onChange: () => lock?.record(processes()), onGiveUp };
  const env = { ...process.env, DATA_DIR: config.dataDir, LOG_LEVEL: process.env.LOG_LEVEL || "warn" };

  /** Waits for a step, and goes no further once we are to stop. */
  const step = async <T>(work: Promise<T>): Promise<T> => {
    const value = await work;
    signal.throwIfAborted();
    return value;
  };

  const openDatabase = async () => {
    if (config.databaseUrl) return config.databaseUrl;
    const opened = await startEmbedded({ directory: config.dataDir });
    database = opened;
    void opened.exited.then(() => {
      if (!signal.aborted) onGiveUp(`PostgreSQL ended unexpectedly (its log: ${opened.place}/log)`);
    });
    return opened.url;
  };

  const start = async (): Promise<Summary> => {
    lock = await takeLock(config.dataDir);
    signal.throwIfAborted();
    const port = await step(checkAddress(config.host, config.port));
    // The engines need nobody, and get going while the database does.
    engines = startEngines(config.demoEngines, config.dataDir, { ...hooks, env });
    hooks.onChange();
    const url = await step(openDatabase());
    await step(migrate(url));
    const system = { ...env, DATABASE_URL: url, PORT: String(port) };
    api = supervise({ ...hooks, name: "api", command: () => [resolve(source, "start.ts")], env: system });
    hooks.onChange();
    const seedForWorker = async () => {
      const admin = await step(seed(url, config, engines, signal));
      // Not before: at an engine's port of the last time somebody else may listen by now.
      worker = supervise({ ...hooks, name: "worker", command: () => [resolve(source, "worker.ts")], env: system });
      hooks.onChange();
      return admin;
    };
    const [admin] = await step(Promise.all([seedForWorker(), waitUntilReady(config.host, port, signal)]));
    return {
      url: config.port === port ? config.publicUrl : localUrl(config.host, port),
      seconds: (Date.now() - startedAt) / 1000,
      dataDir: config.dataDir,
      databasePlace: database && !database.place.startsWith(config.dataDir) ? database.place : null,
      parts: [
        "a worker",
        ...(engines.length > 0 ? [`${engines.length} demo engine${engines.length > 1 ? "s" : ""}`] : []),
      ],
      admin,
    };
  };

  return {
    start: () => (starting ??= start()),
    async stop() {
      // A start that hangs (a database that does not answer) is left to end with us.
      await Promise.race([starting?.catch(() => {}), Bun.sleep(limits.startMs)]);
      await api?.stop(limits.apiMs);
      await worker?.stop(limits.workerMs);
      await Promise.all(engines.map((engine) => engine.child.stop(limits.engineMs)));
      await database?.stop();
      lock?.release();
    },
    kill() {
      for (const child of children()) child.kill();
      database?.kill();
      lock?.release();
    },
  };
}

/** Returns the admin's credentials if the account was made now. */
async function seed(url: string, config: Config, engines: DemoEngine[], signal: AbortSignal) {
  const sql = connect(url, { max: 1, name: "atelier up" });
  try {
    const admin = await ensureAdmin(sql, config);
    const ports = Promise.all(engines.map(async ({ name, type, port }) => ({ name, type, port: await port })));
    await ensureDemoServers(sql, await unlessAborted(ports, signal));
    return admin;
  } finally {
    await sql.end({ timeout: 1 });
  }
}

/** An engine that never listens is given up by its supervisor, and that aborts us. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    work.then(resolve, reject);
  });
}

async function waitUntilReady(host: string, port: number, signal: AbortSignal): Promise<void> {
  const url = `${localUrl(host, port)}/readyz`;
  let last = "no answer";
  for (const deadline = Date.now() + readyTimeoutMs; Date.now() < deadline; await Bun.sleep(25)) {
    signal.throwIfAborted();
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
      if (answer.ok) return;
      last = `${answer.status}`;
    } catch {
      // Not listening yet.
    }
  }
  throw new UpError(`the API was not ready after ${readyTimeoutMs / 1000} s (${url}: ${last})`);
}

/** The whole system as processes of its own on one machine, each of which can be killed and started again. */
import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { readConfig } from "../../../src/config.ts";
import { connect, type Sql } from "../../../src/db/client.ts";
import { type Embedded, startEmbedded } from "../../../src/db/embedded.ts";
import { migrate } from "../../../src/db/migrate.ts";
import type { Deed } from "../../../src/demo-engine/faults.ts";
import { ensureAdmin, ensureDemoServers } from "../../../src/seed.ts";
import { openStorage } from "../../../src/storage/index.ts";
import { findFreePort } from "../../helpers/ports.ts";
import { makeScratch } from "../../helpers/scratch.ts";

const source = resolve(import.meta.dirname, "../../../src");
const secretKey = "a secret key of thirty-two letters";
export const admin = { email: "admin@example.org", password: "a password of chaos" };

/** One program that keeps its settings, and so its port and directory, over its lives. */
export class Program {
  private child: ChildProcess | null = null;
  private wanted = true;
  /** Instants (ms since 1970) at which a life ended by our hand. */
  readonly deaths: number[] = [];

  constructor(
    readonly name: string,
    private readonly settings: { args: string[]; env: Record<string, string>; log: string },
  ) {
    this.start();
  }

  get isRunning(): boolean {
    return this.child !== null;
  }

  start(): void {
    if (this.child) return;
    this.wanted = true;
    const log = openSync(this.settings.log, "a");
    const child = spawn(process.execPath, this.settings.args, {
      stdio: ["pipe", log, log],
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ATELIER_SUPERVISED: "1", ...this.settings.env },
    });
    this.child = child;
    child.once("exit", (code, signal) => {
      appendFileSync(this.settings.log, `${JSON.stringify({ exited: code, signal, at: new Date() })}\n`);
      if (this.child === child) this.child = null;
      // Nobody killed it: a program must not end by itself, but if it does, the run goes on and the log tells.
      if (this.wanted) setTimeout(() => this.wanted && this.start(), 500);
    });
  }

  /** Settles when the process is gone. */
  async end(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    this.wanted = false;
    const { child } = this;
    if (!child) return;
    this.deaths.push(Date.now());
    const gone = new Promise((ended) => child.once("exit", ended));
    child.kill(signal);
    const force = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await gone;
    clearTimeout(force);
  }

  /** Neither works nor answers for a while; the others hear no end of it. */
  async freeze(ms: number): Promise<void> {
    const { child } = this;
    if (!child) return;
    child.kill("SIGSTOP");
    await Bun.sleep(ms);
    child.kill("SIGCONT");
  }
}

export interface SystemOptions {
  engines: { train: number; infer: number };
  workers: number;
  /** Least time of an engine's step. */
  stepMs: number;
}

export type System = Awaited<ReturnType<typeof startSystem>>;

export async function startSystem({ engines, workers, stepMs }: SystemOptions) {
  const directory = makeScratch("atelier-chaos-");
  const logs = join(directory, "logs");
  mkdirSync(logs);
  let database: Embedded = await startEmbedded({ directory });
  const databaseUrl = database.url;
  await migrate(databaseUrl);
  const sql: Sql = connect(databaseUrl, { max: 4, name: "atelier chaos" });
  await ensureAdmin(sql, { adminEmail: admin.email, adminPassword: admin.password });

  const port = await findFreePort();
  const env = {
    DATABASE_URL: databaseUrl,
    DATA_DIR: directory,
    SECRET_KEY: secretKey,
    PORT: String(port),
    LOG_LEVEL: "info",
    RATE_LIMIT_READS: "0",
    RATE_LIMIT_WRITES: "0",
  };
  const program = (name: string, args: string[]) => new Program(name, { args, env, log: join(logs, `${name}.log`) });

  const kinds = [...Array(engines.train).fill("train"), ...Array(engines.infer).fill("infer")] as ("train" | "infer")[];
  const planned = await Promise.all(
    kinds.map(async (type, index) => ({ name: `demo-${type}-${index + 1}`, type, port: await findFreePort() })),
  );
  const enginePrograms = planned.map(({ name, port: enginePort }) => {
    const place = ["--directory", join(directory, "engines", name), "--port", String(enginePort)];
    const how = ["--step-ms", String(stepMs), "--faults", "--stdin"];
    return program(name, [join(source, "demo-engine/main.ts"), ...place, ...how]);
  });
  const api = program("api", [join(source, "start.ts")]);
  const workerPrograms = Array.from({ length: workers }, (_, index) =>
    program(`worker-${index + 1}`, [join(source, "worker.ts")]),
  );
  await ensureDemoServers(sql, planned);

  return {
    url: `http://127.0.0.1:${port}`,
    directory,
    sql,
    storage: openStorage(readConfig(env)),
    api,
    engines: enginePrograms,
    workers: workerPrograms,
    /** PostgreSQL dies at once, as by a loss of power, or ends in order; `restart` brings it back on the same port. */
    database: {
      crash: async () => {
        database.kill();
        await database.exited;
      },
      restart: async () => {
        await database.stop();
        database = await startEmbedded({ directory });
        if (database.url !== databaseUrl) throw new Error("the database came back at another address");
      },
    },
    /** What an engine really computed, over all its lives. */
    computed(name: string): Deed[] {
      const journal = join(directory, "engines", name, "computed.jsonl");
      const lines = existsSync(journal) ? readFileSync(journal, "utf8").split("\n") : [];
      return lines.filter(Boolean).map((line) => JSON.parse(line));
    },
    engineUrls: planned.map((engine) => `http://127.0.0.1:${engine.port}`),
    logOf: (name: string) => readFileSync(join(logs, `${name}.log`), "utf8"),
    async stop({ keep }: { keep: boolean }): Promise<void> {
      await Promise.all([api, ...workerPrograms, ...enginePrograms].map((one) => one.end("SIGTERM")));
      await sql.end({ timeout: 1 });
      await database.stop();
      if (!keep) rmSync(directory, { recursive: true, force: true });
    },
  };
}

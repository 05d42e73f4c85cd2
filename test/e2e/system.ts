/** The real `up`, started as a newcomer does, with a DATA_DIR of its own; and a client for what it serves. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { findProcess, isAlive, type ProcessId } from "../../src/db/process-table.ts";
import { findFreePort } from "../helpers/ports.ts";

export const root = resolve(import.meta.dirname, "../..");

export interface System {
  url: string;
  dataDir: string;
  /** Null at a later start on the same data. */
  admin: { email: string; password: string } | null;
  /** All that it printed so far. */
  printed(): string;
  /** Every process of it, `bun run` and the database's included. */
  processes(): ProcessId[];
  /** SIGTERM, and waits for the exit code. */
  stop(): Promise<number>;
}

type Env = Record<string, string | undefined>;

/** What the tests' own environment must not lend to the programs. */
const clean: Env = Object.fromEntries(
  ["PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"].map((name) => [name, process.env[name]]),
);

/** Runs one of the package's commands. */
export function run(args: string[], env: Env) {
  return Bun.spawn([process.execPath, "run", ...args], {
    cwd: root,
    env: { ...clean, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** A command that should end by itself: its exit code, and what it said on stderr. */
export async function runToEnd(args: string[], env: Env) {
  const child = run(args, env);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, lines: err.trimEnd().split("\n"), code };
}

/** Settles when `up` says that it is up. @throws Error with all it printed when it ends before */
export async function startUp(dataDir: string, env: Env = {}): Promise<System> {
  // Not 0: what a second start is told must be known, and two that start at once must differ.
  const port = env.PORT ?? String(await findFreePort());
  const child = run(["up"], { DATA_DIR: dataDir, PORT: port, ...env });
  const isUp = Promise.withResolvers<void>();
  let printed = "";
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream() as never) as ReadableStream<string>) {
      printed += text;
      if (printed.includes("Ctrl-C stops everything.")) isUp.resolve();
    }
  };
  collect(child.stdout);
  collect(child.stderr);
  child.exited.then((code) => isUp.reject(new Error(`up ended with ${code}:\n${printed}`)));
  await isUp.promise;
  const [, email = "", password = ""] = / Admin +(\S+) +(\S+)/.exec(printed) ?? [];
  const shell: ProcessId = { pid: child.pid, started: findProcess(child.pid)?.started ?? "" };
  return {
    url: `http://127.0.0.1:${port}`,
    dataDir,
    admin: email ? { email, password } : null,
    printed: () => printed,
    processes() {
      const { pid, started, children } = JSON.parse(readFileSync(join(dataDir, "up.json"), "utf8"));
      const { server } = JSON.parse(readFileSync(join(dataDir, "database.json"), "utf8"));
      return [shell, { pid, started }, ...children, server];
    },
    async stop() {
      child.kill("SIGTERM");
      return await child.exited;
    },
  };
}

export function living(processes: ProcessId[]): ProcessId[] {
  return processes.filter(isAlive);
}

export type Json = Record<string, unknown>;
export type Client = ReturnType<typeof createClient>;

/** A caller of the API; null is a guest. */
export function createClient(url: string, token: string | null) {
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  return {
    token,
    async ask(method: string, path: string, body?: unknown) {
      const answer = await fetch(path.startsWith("http") ? path : `${url}/api/${path}`, {
        method,
        headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      const isJson = /json/.test(answer.headers.get("content-type") ?? "");
      return { status: answer.status, body: (isJson ? await answer.json() : await answer.bytes()) as Json };
    },
    /** The object, or an error with what was answered. */
    async get(path: string): Promise<Json> {
      const { status, body } = await this.ask("GET", path);
      if (status !== 200) throw new Error(`GET ${path}: ${status} ${JSON.stringify(body)}`);
      return body;
    },
    async post(path: string, given: unknown): Promise<Json> {
      const { status, body } = await this.ask("POST", path, given);
      if (status !== 201) throw new Error(`POST ${path}: ${status} ${JSON.stringify(body)}`);
      return body;
    },
    async upload(file: string): Promise<Json> {
      const form = new FormData();
      form.append("file", Bun.file(file));
      const answer = await fetch(`${url}/api/files`, { method: "POST", headers, body: form });
      return (await answer.json()) as Json;
    },
    /** Follows an object until `isEnough` says so of a state; that state. */
    follow(path: string, isEnough: (state: Json) => boolean): Promise<Json> {
      return new Promise((resolve, reject) => {
        const protocols = token ? ["atelier.v1", `bearer.${token}`] : ["atelier.v1"];
        const socket = new WebSocket(`${url.replace("http", "ws")}/api/${path}`, protocols);
        let state: Json = {};
        socket.onmessage = ({ data }) => {
          const frame = JSON.parse(String(data));
          state = { ...(frame.type === "snapshot" ? {} : state), ...frame.data };
          if (!isEnough(state)) return;
          socket.onclose = null;
          socket.close();
          resolve(state);
        };
        socket.onclose = ({ code }) => {
          reject(new Error(`the socket of ${path} closed with ${code} after ${JSON.stringify(state)}`));
        };
      });
    },
  };
}

export async function logIn(url: string, { email, password }: { email: string; password: string }): Promise<Client> {
  const { token } = await createClient(url, null).post("sessions", { email, password });
  return createClient(url, token as string);
}

/** A new user, logged in. */
export async function signUp(url: string, name: string): Promise<Client> {
  const credentials = { email: `${name}@example.org`, password: "a password of theirs" };
  await createClient(url, null).post("users", credentials);
  return logIn(url, credentials);
}

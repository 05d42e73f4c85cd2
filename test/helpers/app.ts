/**
 * The real app on a database of its own, used through `fetch` without listening. Accounts are inserted with a hash made
 * beforehand, since argon2 is slow on purpose; only tests of the log-in itself hash.
 */
import { afterAll, setDefaultTimeout } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { createApp } from "../../src/app.ts";
import { createSecrets } from "../../src/auth/secrets.ts";
import { openSession } from "../../src/auth/session.ts";
import { type Config, readConfig } from "../../src/config.ts";
import { connect } from "../../src/db/client.ts";
import { createCatalogueSource } from "../../src/params/catalogue.ts";
import { createLiveModels } from "../../src/pool/live-models.ts";
import { createLinks } from "../../src/rest/links.ts";
import { openStorage, temporaryDirectory } from "../../src/storage/index.ts";
import { freshDatabase } from "./database.ts";
import { isOnDeno, startDeno } from "./deno.ts";
import { makeModelFile, makePicture } from "./files.ts";

// biome-ignore lint/suspicious/noExplicitAny: answers are looked at, not relied on.
export type Json = any;

export interface Answer {
  status: number;
  headers: Headers;
  /** Parsed when it is JSON, else the text. */
  body: Json;
  text: string;
}

export interface Account {
  id: number;
  token: string;
  email: string;
  sessionId: string;
}

export interface CallOptions {
  token?: string;
  /** Sent as JSON; a string, bytes or a form as it is. */
  body?: unknown;
  headers?: Record<string, string>;
}

/** Of every account made by `signUp` and `admin`. */
export const password = "a password of tests";
const passwordHash =
  "$argon2id$v=19$m=19456,t=2,p=1$+/8JHoOrfXsa7iunZDDGyQ$Bfw0HaYhd+5wUM+G+HDsuYoWRqGY9LK8gps71gW/LJc";
const secretKey = "a secret key of thirty-two letters";
const publicUrl = "http://atelier.test";

export type TestApp = Awaited<ReturnType<typeof startApp>>;

/** Whom tests are to the API, unless they say otherwise. */
const address = "192.0.2.1";

/** Gone, with its database and files, when the test file is done. */
export async function startApp(changes: Partial<Config> = {}) {
  // Holds for the test file. What hangs ends here; the machine may be busy with other things.
  setDefaultTimeout(30_000);
  const database = await freshDatabase();
  const directory = mkdtempSync(join(tmpdir(), "atelier-app-"));
  const config: Config = { ...readConfig({ DATA_DIR: directory, PORT: "0", PUBLIC_URL: publicUrl }), ...changes };
  const sql = connect(database.url, { max: 6, name: "atelier test app" });
  const secrets = createSecrets(secretKey);
  const storage = openStorage(config);
  // What is logged as an error is a bug: it shows beside the test that found it.
  const log = pino({ level: "error" });
  const catalogue = createCatalogueSource(sql);
  const app = createApp({
    config,
    sql,
    secrets,
    links: createLinks(config.publicUrl, secrets),
    storage,
    catalogue,
    log,
    listModels: createLiveModels(secrets),
    temporaryDirectory: temporaryDirectory(config),
  });
  const deno = isOnDeno ? await startDeno(config, database.url, secretKey) : null;
  const ask = async (request: Request) => deno?.fetch(request, address) ?? app.fetch(request, { address });
  const closers: (() => Promise<unknown>)[] = [];
  if (deno) closers.push(deno.stop);
  afterAll(async () => {
    for (const close of closers.reverse()) await close();
    await sql.end({ timeout: 1 });
    await database.drop();
    rmSync(directory, { recursive: true, force: true });
  });

  /** `path` with a leading slash, query included. */
  async function call(method: string, path: string, options: CallOptions = {}): Promise<Answer> {
    return read(await ask(toRequest(method, `${config.publicUrl}${path}`, options)));
  }

  async function makeAccount(name: string, admin: boolean): Promise<Account> {
    const email = `${name}-${randomBytes(6).toString("hex")}@example.com`;
    const [row] = await sql<{ id: number }[]>`
      insert into users (name, email, password_hash, admin)
      values (${name}, ${email}, ${passwordHash}, ${admin})
      returning id
    `;
    const id = row?.id as number;
    return { id, email, ...(await logIn(id)) };
  }

  /** Another session of a user, without a log-in. */
  async function logIn(userId: number): Promise<{ token: string; sessionId: string }> {
    const session = await openSession(sql, { userId, ip: address, userAgent: "tests" });
    return { token: session.token, sessionId: session.id };
  }

  /** Creates by POST, which must succeed. */
  async function make(name: string, token: string, body: unknown): Promise<Json> {
    const answer = await call("POST", `/api/${name}`, { token, body });
    if (answer.status !== 201) throw new Error(`POST ${name}: ${answer.status} ${answer.text}`);
    return answer.body;
  }

  async function uploadBytes(token: string, bytes: Uint8Array): Promise<Json> {
    const answer = await call("POST", "/api/files", {
      token,
      body: bytes,
      headers: { "Content-Type": "application/octet-stream" },
    });
    if (answer.status !== 201) throw new Error(`upload: ${answer.status} ${answer.text}`);
    return answer.body;
  }

  return {
    config,
    sql,
    secrets,
    secretKey,
    storage,
    log,
    databaseUrl: database.url,
    directory,
    /** Runs before the database goes, the last one first. */
    onClose: (close: () => Promise<unknown>) => closers.push(close),
    fetch: ask,
    /** The API where it runs on Deno; null where it runs in the test's own process. */
    deno,
    call,
    make,
    logIn,
    signUp: (name = "user") => makeAccount(name, false),
    admin: (name = "admin") => makeAccount(name, true),
    upload: async (token: string, picture?: Uint8Array) => uploadBytes(token, picture ?? (await makePicture())),
    uploadModel: (token: string, metadata?: Record<string, string>) => uploadBytes(token, makeModelFile(metadata)),
    /** A model that can be used, from a file. */
    makeModel: async (token: string, fields: Record<string, unknown> = {}) =>
      make("models", token, { file: (await uploadBytes(token, makeModelFile())).url, ...fields }),
  };
}

export function toRequest(method: string, url: string, { token, body, headers }: CallOptions = {}): Request {
  const isRaw =
    body === undefined || typeof body === "string" || body instanceof Uint8Array || body instanceof FormData;
  const isTyped = body === undefined || body instanceof FormData;
  return new Request(url, {
    method,
    body: isRaw ? (body as BodyInit | undefined) : JSON.stringify(body),
    headers: {
      ...(isTyped ? {} : { "Content-Type": "application/json" }),
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...headers,
    },
  });
}

export async function read(response: Response): Promise<Answer> {
  const text = await response.text();
  const isJson = /json/.test(response.headers.get("content-type") ?? "");
  return { status: response.status, headers: response.headers, body: isJson && text ? JSON.parse(text) : text, text };
}

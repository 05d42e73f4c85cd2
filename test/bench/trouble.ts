/**
 * `bun run bench trouble`: watchers while things break: how long after the database (or the API) answers again the last
 * of them has the newest version, and whether any was ever told an older one after a newer one. Fails when it takes over
 * five seconds, or when one was.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createClient, type SocketClass } from "../../src/client/index.ts";
import { connect } from "../../src/db/client.ts";
import { startEmbedded } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { Child } from "./child.ts";

const objects = 20;
const watchersOfEach = 10;
const limitSeconds = 5;

const directory = mkdtempSync(join(tmpdir(), "atelier-bench-"));
chmodSync(directory, 0o711);
let database = await startEmbedded({ directory });
await migrate(database.url);
const sql = connect(database.url, { max: 4, name: "bench" });
await sql`insert into users (name, email, password_hash) values ('bench', 'bench@example.com', 'x')`;
await sql`insert into datasets (name, public, user_id) select 'new', true, 1 from generate_series(1, ${objects}::int)`;

let port = "0";
let api = await startApi();

/** Every connection, to be cut at will. */
const open = new Set<WebSocket>();
let backwards = 0;
/** The newest version that each watcher was told, by all of its connections. */
const held = new Map<string, number>();
for (let object = 1; object <= objects; object += 1) {
  for (let n = 0; n < watchersOfEach; n += 1) void follow(object, `${object} ${n}`);
}

async function follow(object: number, key: string): Promise<void> {
  // Looked at below the client, which passes over what is older than it holds.
  class Watched extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols);
      open.add(this);
      this.addEventListener("close", () => open.delete(this));
      this.addEventListener("message", ({ data }) => {
        const { version } = JSON.parse(String(data)) as { version: number };
        if (version < (held.get(key) ?? 0)) backwards += 1;
        else held.set(key, version);
      });
    }
  }
  const client = createClient({
    url: `http://127.0.0.1:${port}`,
    WebSocket: Watched as unknown as SocketClass,
    backoff: () => 200,
  });
  for await (const _state of client.datasets.watch(object));
}

let isWriting = true;
const writing = (async () => {
  while (isWriting) {
    const object = 1 + Math.floor(Math.random() * objects);
    await sql`update datasets set name = ${`at ${Date.now()}`} where id = ${object}`.catch(() => Bun.sleep(50));
    await Bun.sleep(10);
  }
})();

const troubles: [string, () => Promise<void>][] = [
  ["nothing", async () => {}],
  ["the listening backend is killed", () => kill("application_name = 'atelier relay'")],
  ["all backends of the API are killed", () => kill("application_name like 'atelier%'")],
  ["clients are cut off", async () => open.forEach((socket) => void socket.close())],
  [
    "PostgreSQL is restarted",
    async () => {
      await database.stop();
      await restartDatabase();
    },
  ],
  [
    "PostgreSQL crashes and is away for 3 s",
    async () => {
      database.kill();
      await database.exited;
      await Bun.sleep(3_000);
      await restartDatabase();
    },
  ],
  [
    "the API is killed and restarted",
    async () => {
      await api.stop();
      api = await startApi();
    },
  ],
];

let isWell = true;
process.stdout.write(
  `${objects * watchersOfEach} watchers of ${objects} objects; seconds until the last has the newest version\n`,
);
for (const [name, make] of troubles) {
  await Bun.sleep(1_000);
  await make();
  const since = performance.now();
  await touchAll();
  const took = (performance.now() - since) / 1_000;
  isWell &&= took < limitSeconds && backwards === 0;
  process.stdout.write(`${name.padEnd(40)}${took.toFixed(2).padStart(6)} s   older after newer: ${backwards}\n`);
}
isWriting = false;
await writing;
await api.stop();
await sql.end({ timeout: 1 });
await database.stop();
rmSync(directory, { recursive: true, force: true });
process.exit(isWell ? 0 : 1);

/** Changes every object, and waits until all watchers hold these versions, or newer ones. */
async function touchAll(): Promise<void> {
  let rows: { id: number; version: number }[] = [];
  while (rows.length === 0) {
    rows = await sql<
      { id: number; version: number }[]
    >`update datasets set info = info || '.' returning id, version`.catch(async () => {
      await Bun.sleep(20);
      return [];
    });
  }
  const isThere = ({ id, version }: { id: number; version: number }) =>
    Array.from({ length: watchersOfEach }, (_, n) => held.get(`${id} ${n}`) ?? 0).every((one) => one >= version);
  const deadline = performance.now() + 30_000;
  while (!rows.every(isThere) && performance.now() < deadline) await Bun.sleep(10);
}

async function kill(which: string): Promise<void> {
  await sql.unsafe(`select pg_terminate_backend(pid) from pg_stat_activity where ${which} and pid <> pg_backend_pid()`);
}

async function restartDatabase(): Promise<void> {
  database = await startEmbedded({ directory });
}

async function startApi(): Promise<Child> {
  const environment = { DATABASE_URL: database.url, DATA_DIR: join(directory, "api"), PORT: port, LOG_LEVEL: "fatal" };
  const child = new Child([resolve(import.meta.dirname, "relay-server.ts"), "ours"], environment);
  port = await child.line();
  return child;
}

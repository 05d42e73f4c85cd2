/** `bun run backup` and `bun run restore` as programs: what comes back is what was there. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Manifest } from "../../src/backup/manifest.ts";
import { readBackup } from "../../src/backup/read.ts";
import { listTables, nameOf } from "../../src/backup/tables.ts";
import { writeBackup } from "../../src/backup/write.ts";
import { connect, type Sql } from "../../src/db/client.ts";
import { startEmbedded } from "../../src/db/embedded.ts";
import { openStorage } from "../../src/storage/index.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { startApp } from "../helpers/app.ts";
import { freshDatabase } from "../helpers/database.ts";
import { makeScratch } from "../helpers/scratch.ts";

const app = await startApp();
const directory = makeScratch("atelier-backup-");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const owner = await app.signUp();
const [kept, gone] = await Promise.all([app.upload(owner.token), app.upload(owner.token)]);
const dataset = await app.make("datasets", owner.token, { images: [kept.url], name: "a\tname\\with \n 布穀鳥" });
await app.make("models", owner.token, { dataset_id: dataset.id, tags: ["水彩"] }); // and its job in the queue
await app.makeModel(owner.token, { info: "registered" });

async function run(program: "backup" | "restore", args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, join(import.meta.dirname, `../../src/${program}.ts`), ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { out, err, code: await child.exited };
}
const source = { DATABASE_URL: app.databaseUrl, DATA_DIR: app.directory, SECRET_KEY: app.secretKey };

/** Every row of every table, as text. */
async function dump(sql: Sql): Promise<Record<string, string[]>> {
  const rows: Record<string, string[]> = {};
  for (const table of await listTables(sql)) {
    const found = await sql.unsafe(`select t::text as row from ${nameOf(table)} t order by 1`);
    rows[nameOf(table)] = found.map(({ row }) => row);
  }
  return rows;
}

test("a round trip into an embedded database brings back every row and every file, and what was queued", async () => {
  await app.sql`insert into settings values ('storage', 'the old one'), ('secret-key', ${app.secrets.checkValue})`;
  const target = join(directory, "round-trip");
  const made = await run("backup", [target], source);
  expect([made.code, made.err]).toEqual([0, ""]);
  expect(made.out).toContain("3 files of");
  expect(made.out).toContain("SECRET_KEY is not in it");
  expect(statSync(target).mode & 0o777).toBe(0o700);

  const DATA_DIR = join(directory, "data");
  const back = await run("restore", [target], { DATA_DIR, SECRET_KEY: app.secretKey });
  expect([back.code, back.err, back.out]).toEqual([0, "", expect.stringContaining("3 files")]);

  const embedded = await startEmbedded({ directory: DATA_DIR });
  const sql = connect(embedded.url, { max: 2 });
  try {
    const storage = openStorage({ s3: null, dataDir: DATA_DIR });
    const { settings: _now, ...now } = renamed(await dump(sql));
    const { settings: _then, ...then } = renamed(await dump(app.sql));
    expect(now).toEqual(then);
    expect(now.users?.length).toBe(1);
    expect(now._private_jobs?.length).toBeGreaterThan(0);
    expect([...(await sql`select value from settings where name = 'storage'`)]).toEqual([
      { value: await storage.id() },
    ]);
    for await (const object of app.storage.list()) {
      expect([object.key, (await storage.get(object.key))?.size]).toEqual([object.key, object.size]);
    }
    // Counters go on where they were, and triggers work again.
    const [next] = await sql<{ id: number }[]>`insert into tags (name) values ('new') returning id`;
    const [last] = await app.sql<{ id: number }[]>`select max(id) as id from tags`;
    expect(next?.id).toBeGreaterThan(last?.id ?? 0);
    const jobs = () => sql`select from graphile_worker._private_jobs`;
    const before = (await jobs()).length;
    await sql`delete from datasets where id = ${dataset.id}`;
    expect(await jobs()).toHaveLength(before + 1);
  } finally {
    await sql.end();
    await embedded.stop();
  }
});

function renamed(rows: Record<string, string[]>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(rows).map(([name, found]) => [name.split('"').at(-2) as string, found]));
}

test("it goes into an empty database of the same release, under the same key, or not at all", async () => {
  const target = join(directory, "refused");
  const keyed = { ...app.config, secretKey: app.secretKey };
  const { manifest } = await writeBackup(app.sql, app.storage, keyed, target);
  await expect(writeBackup(app.sql, app.storage, keyed, target)).rejects.toThrow("exists already");
  await expect(readBackup(app.sql, app.storage, keyed, target, manifest)).rejects.toThrow("not empty");
  const database = await freshDatabase();
  const sql = connect(database.url, { max: 2 });
  const storage = openStorage({ s3: null, dataDir: join(directory, "refusing") });
  const restore = (changes: Partial<Manifest>, secretKey: string | null = app.secretKey) =>
    readBackup(sql, storage, { ...keyed, secretKey }, target, { ...manifest, ...changes });
  try {
    await expect(restore({}, null)).rejects.toThrow("set SECRET_KEY");
    await expect(restore({}, "another key of at least thirty-two letters")).rejects.toThrow(
      "SECRET_KEY is not the one",
    );
    await expect(restore({ migrations: manifest.migrations.slice(1) })).rejects.toThrow("another release");
    const tables = manifest.tables.map((table) => ({ ...table, rows: table.rows + 1 }));
    await expect(restore({ tables })).rejects.toThrow("rows, not");
    writeFileSync(join(target, "files", kept.key), "another picture");
    await expect(restore({})).rejects.toThrow("is damaged");
    expect(await sql`select from users`).toHaveLength(0);
  } finally {
    await sql.end();
    await database.drop();
  }
});

test("a file deleted while the backup runs is in it, and goes afterwards", async () => {
  let isDeleted = false;
  const storage: Storage = {
    ...app.storage,
    async get(key, range) {
      if (!isDeleted) {
        isDeleted = true;
        const answer = await app.call("DELETE", `/api/files/${gone.key}`, { token: owner.token });
        expect(answer.status).toBe(204);
        expect(await app.sql`select from files where key = ${gone.key}`).toHaveLength(0);
      }
      return app.storage.get(key, range);
    },
  };
  const target = join(directory, "meanwhile");
  const { manifest, lost } = await writeBackup(app.sql, storage, { ...app.config, secretKey: "elsewhere" }, target);
  expect([lost, manifest.files.count]).toEqual([[], 3]);
  expect(readdirSync(join(target, "files"))).toContain(gone.key);
  expect(await app.storage.get(gone.key)).not.toBeNull();
  const jobs = await app.sql`
    select from graphile_worker._private_jobs j
    join graphile_worker._private_tasks t on t.id = j.task_id
    where t.identifier = 'delete-files' and j.payload::text like ${`%${gone.key}%`}
  `;
  expect(jobs).toHaveLength(1);
});

test("what the store has lost is named, and a backup that fails leaves nothing", async () => {
  const { key } = await app.upload(owner.token);
  await app.storage.delete(key);
  const target = join(directory, "with-a-loss");
  const made = await run("backup", [target], source);
  expect([made.code, made.err]).toEqual([1, expect.stringContaining(`${key} is lost`)]);

  const broken: Storage = { ...app.storage, get: () => Promise.reject(new Error("the disk is gone")) };
  const failed = writeBackup(app.sql, broken, { ...app.config, secretKey: "elsewhere" }, join(directory, "failed"));
  await expect(failed).rejects.toThrow("the disk is gone");
  expect(readdirSync(directory).filter((name) => name.startsWith("failed"))).toEqual([]);
  writeFileSync(join(directory, "no-backup"), "");
  expect((await run("restore", [join(directory, "no-backup")], source)).err).toContain("is no whole backup");
  expect(existsSync(join(directory, "no-backup"))).toBe(true);
});

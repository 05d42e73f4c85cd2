/**
 * Writes a backup while everything goes on: the rows of one snapshot by COPY, and the files that those rows name.
 * Files never change, so it is enough that none is deleted meanwhile: deletions see the lock and wait.
 *
 * pg_dump does not come with the embedded PostgreSQL, and a copy of its data directory would need WAL of a level that
 * costs every write.
 */
import { createWriteStream } from "node:fs";
import { copyFile, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import type { ReservedSql, TransactionSql } from "postgres";
import { BootError } from "../boot.ts";
import { type Config, secretKeyPath } from "../config.ts";
import type { Sql } from "../db/client.ts";
import { thumbnailEdges, thumbnailKey } from "../storage/keys.ts";
import { deletionLock } from "../storage/records.ts";
import { spool } from "../storage/spool.ts";
import type { Storage } from "../storage/storage.ts";
import { type Manifest, paths } from "./manifest.ts";
import { copyOut, listSequences, listTables } from "./tables.ts";

/** Files copied at once. */
const parallel = 4;

export interface Written {
  manifest: Manifest;
  /** Files whose bytes the store has lost or changed: the backup lacks them as well. */
  lost: string[];
}

/** @param directory must not exist; it does only when the backup is whole. @throws BootError */
export async function writeBackup(sql: Sql, storage: Storage, config: Config, directory: string): Promise<Written> {
  const target = resolve(directory);
  const draft = `${target}.partial`;
  await mkdir(join(target, ".."), { recursive: true });
  // It holds the key and everybody's pictures.
  await mkdir(draft, { mode: 0o700 }).catch((error) => {
    throw new BootError(
      error.code === "EEXIST" ? `${draft} exists: another backup, or one that died; delete it` : error.message,
    );
  });
  const locked = await sql.reserve();
  try {
    await mkdir(join(draft, "database"));
    await mkdir(join(draft, paths.files));
    await locked`select pg_advisory_lock(${locked.unsafe(deletionLock)})`;
    const written = await inSnapshot(sql, async (tx) => {
      const database = await writeDatabase(tx, draft);
      const { lost, ...files } = await writeFiles(tx, storage, join(draft, paths.files));
      return { database, files, lost };
    });
    const has_key = config.secretKey === null;
    if (has_key) await copyFile(secretKeyPath(config.dataDir), join(draft, paths.key));
    const created_at = new Date().toISOString();
    const manifest: Manifest = { format: 1, created_at, ...written.database, files: written.files, has_key };
    await writeFile(join(draft, paths.manifest), `${JSON.stringify(manifest, null, 1)}\n`, { flush: true });
    await rename(draft, target).catch((error) => {
      throw new BootError(`${target} exists already (${error.code})`);
    });
    return { manifest, lost: written.lost };
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw error;
  } finally {
    await unlock(locked);
  }
}

async function unlock(locked: ReservedSql): Promise<void> {
  await locked`select pg_advisory_unlock_all()`.catch(() => undefined);
  locked.release();
}

/** The lock is held before the snapshot is taken: what it shows can lose no file any more. */
async function inSnapshot<T>(sql: Sql, work: (tx: Sql) => Promise<T>): Promise<T> {
  const done = await sql.begin("isolation level repeatable read read only", async (tx: TransactionSql) => {
    await tx`select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`;
    return { value: await work(tx as unknown as Sql) };
  });
  return (done as { value: T }).value;
}

async function writeDatabase(tx: Sql, draft: string): Promise<Pick<Manifest, "migrations" | "tables" | "sequences">> {
  const migrations = await tx<Manifest["migrations"]>`select name, checksum from migrations order by name`;
  const tables: Manifest["tables"] = [];
  for (const table of await listTables(tx)) {
    await pipeline(
      await copyOut(tx, table),
      createGzip(),
      createWriteStream(join(draft, paths.table(table)), { flags: "wx" }),
    );
    const [counted] = await tx<{ rows: number }[]>`select count(*) as rows from ${tx(table.schema)}.${tx(table.name)}`;
    tables.push({ ...table, rows: counted?.rows ?? 0 });
  }
  return { migrations: [...migrations], tables, sequences: [...(await listSequences(tx))] };
}

interface FileRow {
  key: string;
  hash: string;
  size: number;
  thumbhash: string | null;
}

async function writeFiles(tx: Sql, storage: Storage, directory: string) {
  const copied = { count: 0, bytes: 0, lost: [] as string[] };
  const copy = async ({ key, hash, size, thumbhash }: FileRow): Promise<void> => {
    const stream = await storage.get(key);
    const file = stream && (await spool(stream.stream(), join(directory, key)));
    if (file?.hash !== hash) {
      await rm(join(directory, key), { force: true });
      copied.lost.push(key);
      return;
    }
    copied.count += 1;
    copied.bytes += size;
    for (const edge of thumbhash === null ? [] : thumbnailEdges) {
      const thumbnail = await storage.get(thumbnailKey(key, edge));
      if (thumbnail) await spool(thumbnail.stream(), join(directory, thumbnailKey(key, edge)));
    }
  };
  const rows = tx<FileRow[]>`select key, hash, size, thumbhash from files order by key`;
  for await (const page of rows.cursor(200)) {
    const waiting = [...page];
    const work = async () => {
      for (let row = waiting.pop(); row; row = waiting.pop()) await copy(row);
    };
    await Promise.all(Array.from({ length: parallel }, work));
  }
  return copied;
}

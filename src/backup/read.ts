/** Brings a backup into an empty database and a store: all of it or nothing. */
import { createReadStream, existsSync } from "node:fs";
import { copyFile, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import type { TransactionSql } from "postgres";
import { createSecrets } from "../auth/secrets.ts";
import { BootError } from "../boot.ts";
import { type Config, readSecretKey, secretKeyPath } from "../config.ts";
import type { Sql } from "../db/client.ts";
import { thumbnailEdges, thumbnailKey } from "../storage/keys.ts";
import { streamFile } from "../storage/spool.ts";
import type { Storage } from "../storage/storage.ts";
import { thumbnailType } from "../storage/thumbnails.ts";
import { type Manifest, paths } from "./manifest.ts";
import { copyIn, nameOf } from "./tables.ts";

/**
 * @param sql to a migrated, empty database, as a superuser: references are not checked row by row
 * @throws BootError
 */
export async function readBackup(
  sql: Sql,
  storage: Storage,
  config: Config,
  directory: string,
  manifest: Manifest,
): Promise<void> {
  await judgeTarget(sql, manifest);
  await restoreKey(config, directory, manifest);
  await sql.begin(async (tx: TransactionSql) => {
    const inside = tx as unknown as Sql;
    await tx`select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`;
    // Rows are as they were: nothing must be counted, announced or queued a second time.
    await tx`set local session_replication_role = replica`;
    await tx.unsafe(`truncate ${manifest.tables.map(nameOf).join(", ")}`);
    for (const table of manifest.tables) {
      const source = createReadStream(join(directory, paths.table(table)));
      await pipeline(source, createGunzip(), await copyIn(inside, table));
      const [counted] = await tx<
        { rows: number }[]
      >`select count(*) as rows from ${tx(table.schema)}.${tx(table.name)}`;
      if (counted?.rows !== table.rows)
        throw new BootError(`${nameOf(table)} has ${counted?.rows} rows, not ${table.rows}`);
    }
    for (const { name, last } of manifest.sequences) {
      if (last !== null) await tx`select setval(${name}::regclass, ${last}::bigint)`;
    }
    await judgeKey(inside, config);
    // Another store holds the files from now on; what was only half uploaded stayed in the old one.
    await tx`update settings set value = ${await storage.id()} where name = 'storage'`;
    await tx`delete from uploads where file_key is null`;
    await restoreFiles(inside, storage, join(directory, paths.files));
  });
}

async function judgeTarget(sql: Sql, manifest: Manifest): Promise<void> {
  const [row] = await sql<{ is_used: boolean }[]>`
    select exists (select from users) or exists (select from files) or exists (select from servers) as is_used
  `;
  if (row?.is_used)
    throw new BootError("The database is not empty: restore into a new one (another DATA_DIR or DATABASE_URL)");
  const here = await sql<Manifest["migrations"]>`select name, checksum from migrations order by name`;
  const text = (migrations: Manifest["migrations"]) =>
    migrations.map(({ name, checksum }) => `${name} ${checksum}`).join();
  if (text([...here]) !== text(manifest.migrations)) {
    throw new BootError(
      `The backup is of another release (its last migration is ${manifest.migrations.at(-1)?.name}, here it is ${here.at(-1)?.name}): restore it with that one and upgrade then`,
    );
  }
}

async function restoreKey(config: Config, directory: string, manifest: Manifest): Promise<void> {
  if (config.secretKey !== null) return;
  if (!manifest.has_key) throw new BootError("The backup does not hold the key: set SECRET_KEY to what it was");
  const path = secretKeyPath(config.dataDir);
  if (existsSync(path)) return; // judged below
  await mkdir(config.dataDir, { recursive: true });
  await copyFile(join(directory, paths.key), path);
}

async function judgeKey(tx: Sql, config: Config): Promise<void> {
  const { checkValue } = createSecrets(readSecretKey(config));
  const [kept] = await tx<{ value: string }[]>`select value from settings where name = 'secret-key'`;
  if (kept && kept.value !== checkValue)
    throw new BootError("SECRET_KEY is not the one that the backup was made under");
}

async function restoreFiles(tx: Sql, storage: Storage, directory: string): Promise<void> {
  const rows = tx<{ key: string; hash: string; content_type: string; thumbhash: string | null }[]>`
    select key, hash, content_type, thumbhash from files order by key
  `;
  const put = async (key: string, contentType: string): Promise<string | null> => {
    const found = await stat(join(directory, key)).catch(() => null);
    if (!found) return null;
    return (await storage.put(key, streamFile(join(directory, key), 0, found.size - 1), { contentType })).hash;
  };
  for await (const page of rows.cursor(200)) {
    for (const { key, hash, content_type, thumbhash } of page) {
      const stored = await put(key, content_type);
      // What the store had lost was lost before; what is here must be what it was.
      if (stored !== null && stored !== hash) throw new BootError(`${join(directory, key)} is damaged`);
      for (const edge of thumbhash === null ? [] : thumbnailEdges) await put(thumbnailKey(key, edge), thumbnailType);
    }
  }
}

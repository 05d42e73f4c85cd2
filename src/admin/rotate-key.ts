/** Another SECRET_KEY: everything that was sealed under the old one is sealed anew, or nothing is. */
import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createSecrets } from "../auth/secrets.ts";
import { BootError } from "../boot.ts";
import { type Config, secretKeyPath } from "../config.ts";
import type { Sql } from "../db/client.ts";

/**
 * Seals every `*_sealed` column under the new key (NEW_SECRET_KEY, or one made in DATA_DIR) and binds the database to it,
 * in one transaction. The new key is on disk before that commits, so no end of the process can lose it; run again after
 * such an end, it finishes. Processes that run keep the old key until they are started again.
 *
 * @returns what the operator has to do now; never a key
 * @throws BootError when the present key is not the database's, or a value cannot be opened; then nothing has changed
 */
export async function rotateKey(
  sql: Sql,
  config: Pick<Config, "dataDir" | "secretKey" | "newSecretKey">,
): Promise<string> {
  const path = secretKeyPath(config.dataDir);
  const aside = `${path}.new`;
  const kept = readKey(path);
  const current = config.secretKey ?? kept;
  const [bound] = await sql<{ value: string }[]>`select value from settings where name = 'secret-key'`;
  const isBoundTo = (key: string | null) => key !== null && createSecrets(key).checkValue === bound?.value;
  const half = readKey(aside);
  if (!isBoundTo(current) && isBoundTo(half)) {
    renameSync(aside, path);
    return `An earlier rotation is finished; ${adviceFor(path, config.secretKey !== null)}`;
  }
  if (current === null) throw new BootError(`SECRET_KEY is not set and ${path} does not exist`);
  if (bound && !isBoundTo(current)) throw new BootError("SECRET_KEY is not the one that this database was used with");

  const next = config.newSecretKey ?? randomBytes(32).toString("base64url");
  if (next === current) throw new BootError("NEW_SECRET_KEY is the key that is in use already");
  // A key that somebody else keeps is not written down here, unless the one it follows was.
  const isOnDisk = config.newSecretKey === null || config.secretKey === null;
  if (isOnDisk) writeFileSync(aside, next, { mode: 0o600 });
  let count: number;
  try {
    count = await sql.begin((tx) => sealAnew(tx as unknown as Sql, current, next));
  } catch (error) {
    // After any other error nobody knows whether it was committed.
    if (error instanceof BootError) rmSync(aside, { force: true });
    throw error;
  }
  if (isOnDisk) renameSync(aside, path);
  const sealed = `${count} sealed ${count === 1 ? "value" : "values"} rotated`;
  if (!isOnDisk) return `${sealed}; set SECRET_KEY to the new key and start every process again`;
  return `${sealed}; ${adviceFor(path, config.secretKey !== null)}`;
}

function adviceFor(path: string, isKeyInEnvironment: boolean): string {
  const place = `the new key is in ${path}`;
  return isKeyInEnvironment
    ? `${place}: set SECRET_KEY to it and start every process again`
    : `${place}: start every process again`;
}

function readKey(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim() || null;
  } catch {
    return null;
  }
}

/** @returns how many values were sealed anew */
async function sealAnew(sql: Sql, current: string, next: string): Promise<number> {
  const [before, after] = [createSecrets(current), createSecrets(next)];
  let count = 0;
  const columns = await sql<{ table: string; column: string }[]>`
    select table_name as "table", column_name as "column"
    from information_schema.columns
    where table_schema = current_schema()
      and column_name like '%\\_sealed'
    order by table_name, column_name
  `;
  // A process that still runs must not seal a value between our look and our commit.
  for (const table of new Set(columns.map((found) => found.table)))
    await sql`lock table ${sql(table)} in exclusive mode`;
  for (const { table, column } of columns) {
    const rows = await sql<{ id: number; sealed: string }[]>`
      select id, ${sql(column)} as sealed from ${sql(table)} where ${sql(column)} is not null order by id
    `;
    for (const { id, sealed } of rows) {
      let plain: string;
      try {
        plain = before.open(sealed);
      } catch {
        throw new BootError(`${table} ${id}: ${column} cannot be opened with the present key; nothing was changed`);
      }
      await sql`update ${sql(table)} set ${sql(column)} = ${after.seal(plain)} where id = ${id}`;
      count += 1;
    }
  }
  await sql`
    insert into settings (name, value) values ('secret-key', ${after.checkValue})
    on conflict (name) do update set value = excluded.value
  `;
  return count;
}

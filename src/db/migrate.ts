/** Brings a database up to `sql/`: each file once, in order, whoever else tries at the same time. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Logger, runMigrations } from "graphile-worker";
import type { ReservedSql } from "postgres";
import { connect, DatabaseError, describeDatabaseError } from "./client.ts";

export const migrationsDirectory = resolve(import.meta.dirname, "../../sql");

/** Any number will do, but all versions of this program must agree on it. */
const lockKey = 7_283_001;

interface Migration {
  /** The file's name, `0001_users.sql`. */
  name: string;
  text: string;
  /** sha256 of the text, line ends normalised: a checkout on Windows may have rewritten them. */
  checksum: string;
}

type Recorded = Pick<Migration, "name" | "checksum">;

/**
 * Applies what `directory` holds beyond the database's own record, each file in a transaction, and before that the
 * queue's own migrations, since our triggers call its functions. One advisory lock, held by the session, covers it
 * all: of several processes one works, the others wait and then find nothing to do.
 *
 * @returns the names of the files applied now
 * @throws DatabaseError in one line; the files before the failed one stay applied
 */
export async function migrate(databaseUrl: string, options: { directory?: string } = {}): Promise<string[]> {
  const migrations = readMigrations(options.directory ?? migrationsDirectory);
  const pool = connect(databaseUrl, { max: 1, name: "atelier migrate" });
  try {
    const sql = await pool.reserve();
    try {
      await sql`select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)`;
      await checkServer(sql);
      await sql`select pg_advisory_lock(${lockKey})`;
      await runMigrations({ connectionString: databaseUrl, logger: silent });
      return await applyPending(sql, migrations);
    } finally {
      sql.release();
    }
  } catch (error) {
    if (error instanceof DatabaseError) throw error;
    throw new DatabaseError(describeDatabaseError(error, databaseUrl), { cause: error });
  } finally {
    await pool.end({ timeout: 5 }); // the lock goes with the session
  }
}

const silent = new Logger(() => () => {});

/**
 * The migrations of a directory, in order.
 *
 * @throws DatabaseError for two files of one number and for names that are no migration's
 */
export function readMigrations(directory: string): Migration[] {
  const names = readdirSync(directory).filter((name) => name.endsWith(".sql"));
  const seen = new Map<string, string>();
  return names.sort().map((name) => {
    const number = /^(\d{4})_[a-z0-9_-]+\.sql$/.exec(name)?.[1];
    if (!number) throw new DatabaseError(`${name}: a migration's name looks like 0001_users.sql`);
    const other = seen.get(number);
    if (other) throw new DatabaseError(`${other} and ${name} have the same number`);
    seen.set(number, name);
    const text = readFileSync(join(directory, name), "utf8").replaceAll("\r\n", "\n");
    return { name, text, checksum: createHash("sha256").update(text).digest("hex") };
  });
}

async function applyPending(sql: ReservedSql, migrations: Migration[]): Promise<string[]> {
  await sql.unsafe(`
    create table if not exists migrations (
      name       text primary key,
      checksum   text not null,
      applied_at timestamptz not null default now()
    );
    comment on table migrations is 'The files of sql/ that this database has, with the sha256 of their text.';
  `);
  const recorded = await sql<Recorded[]>`select name, checksum from migrations order by name`;
  const pending = findPending(migrations, recorded);
  for (const migration of pending) await apply(sql, migration);
  return pending.map((migration) => migration.name);
}

/**
 * What is not recorded yet.
 *
 * @throws DatabaseError when a recorded file has changed or is missing, or a new one sorts before a recorded one:
 *   then no database made from scratch would be the same as this one
 */
function findPending(migrations: Migration[], recorded: readonly Recorded[]): Migration[] {
  const files = new Map(migrations.map((migration) => [migration.name, migration]));
  for (const { name, checksum } of recorded) {
    const file = files.get(name);
    if (!file) throw new DatabaseError(`${name} was applied to this database and is missing here: an older release?`);
    if (file.checksum !== checksum) {
      throw new DatabaseError(
        `${name} was applied and has changed since: add a new migration, never edit a landed one`,
      );
    }
    files.delete(name);
  }
  const newest = recorded.at(-1)?.name ?? "";
  const late = [...files.keys()].find((name) => name < newest);
  if (late)
    throw new DatabaseError(`${late} sorts before ${newest}, which is applied already: give it a higher number`);
  return [...files.values()];
}

async function apply(sql: ReservedSql, { name, text, checksum }: Migration): Promise<void> {
  try {
    await sql`begin`;
    await sql.unsafe(text);
    await sql`insert into migrations (name, checksum) values (${name}, ${checksum})`;
    await sql`commit`;
  } catch (error) {
    await sql`rollback`.catch(() => {});
    const { message, position } = error as { message: string; position?: string };
    const line = position ? `, line ${text.slice(0, Number(position)).split("\n").length}` : "";
    throw new DatabaseError(`${name}${line}: ${message.split("\n")[0]}`, { cause: error });
  }
}

/** Faults that would otherwise show as wrong answers much later: a C locale's `lower` ignores all but ASCII. */
async function checkServer(sql: ReservedSql): Promise<void> {
  const [server] = await sql<{ version: number; encoding: string; folds: boolean }[]>`
    select current_setting('server_version_num')::int as version,
           current_setting('server_encoding') as encoding,
           lower('Ä') = 'ä' as folds`;
  if (!server || server.version < 150_000) {
    throw new DatabaseError(`PostgreSQL 15 or newer is needed; this is ${Math.floor((server?.version ?? 0) / 10_000)}`);
  }
  if (server.encoding !== "UTF8") {
    throw new DatabaseError(`the database's encoding is ${server.encoding}; create it with encoding UTF8`);
  }
  if (!server.folds) {
    throw new DatabaseError(
      "the database has a C locale, which folds ASCII only; create it with locale C.UTF-8 or ICU",
    );
  }
}

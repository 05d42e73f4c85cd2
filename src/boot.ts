/** What every process of ours does first: read the settings, reach the database, check that both belong together. */
import { destination, type Logger, pino } from "pino";
import { createSecrets, type Secrets } from "./auth/secrets.ts";
import { type Config, ConfigError, readConfig, readSecretKey } from "./config.ts";
import { connect, DatabaseError, describeDatabaseError, type Sql } from "./db/client.ts";
import { isProblem } from "./problems.ts";
import { openStorage } from "./storage/index.ts";
import type { Storage } from "./storage/storage.ts";

export interface Booted {
  config: Config;
  databaseUrl: string;
  sql: Sql;
  secrets: Secrets;
  storage: Storage;
  log: Logger;
}

/** A refusal to start, in one line. */
export class BootError extends Error {
  override readonly name = "BootError";
}

/**
 * @param name shown in the database's list of connections
 * @throws BootError, ConfigError, DatabaseError: one line each, for `main`
 */
export async function boot(name: string, env: Record<string, string | undefined>, poolSize: number): Promise<Booted> {
  const config = readConfig(env);
  const databaseUrl = config.databaseUrl ?? (await findRunning(config.dataDir));
  if (!databaseUrl) {
    throw new BootError(`No database: DATABASE_URL is not set and no embedded PostgreSQL runs under ${config.dataDir}`);
  }
  const log = pino(
    { level: config.logLevel, base: { process: name }, serializers: { err: describeError } },
    destination(2),
  );
  const secrets = createSecrets(readSecretKey(config));
  const storage = await openStorage(config);
  const sql = connect(databaseUrl, { max: poolSize, name: `atelier ${name}` });
  try {
    await bind(sql, secrets, storage);
  } catch (error) {
    await sql.end({ timeout: 1 });
    if (error instanceof BootError) throw error;
    if ((error as { code?: string }).code === "42P01") {
      throw new BootError("The database is not migrated: run `bun run migrate`");
    }
    throw new DatabaseError(describeDatabaseError(error, databaseUrl));
  }
  return { config, databaseUrl, sql, secrets, storage, log };
}

/** Loaded only here: it looks at the system's processes, which Deno shows only to those who may do everything. */
async function findRunning(dataDir: string): Promise<string | null> {
  try {
    return (await import("./db/embedded.ts")).findEmbedded(dataDir);
  } catch (error) {
    if ((error as Error).name !== "NotCapable") throw error;
    throw new BootError("No database: DATABASE_URL is not set, and Deno cannot look for an embedded PostgreSQL");
  }
}

/** What is worth reading of an error. pino's own way adds every property: a pool's client with its connection's key. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { name, message, code, stack, cause } = error as Error & { code?: unknown };
  return { type: name, message, code, stack, ...(cause ? { cause: describeError(cause) } : {}) };
}

/** Binds the database to its key and its storage at the first start; refuses others afterwards. */
async function bind(sql: Sql, secrets: Secrets, storage: Storage): Promise<void> {
  const facts = [
    {
      name: "secret-key",
      value: secrets.checkValue,
      fault: "SECRET_KEY is not the one that this database was used with",
    },
    {
      name: "storage",
      value: await storage.id(),
      fault: "The file storage is not the one that this database was used with",
    },
  ];
  for (const { name, value, fault } of facts) {
    await sql`insert into settings (name, value) values (${name}, ${value}) on conflict do nothing`;
    const [kept] = await sql<{ value: string }[]>`select value from settings where name = ${name}`;
    if (kept?.value !== value) throw new BootError(fault);
  }
}

/** Runs an entry point; what refuses to start says so in one line and exits 1. */
export async function main(start: () => Promise<void>): Promise<void> {
  try {
    await start();
  } catch (error) {
    const isExpected = error instanceof ConfigError || error instanceof DatabaseError || error instanceof BootError;
    process.stderr.write(`${isExpected ? (error as Error).message : ((error as Error)?.stack ?? error)}\n`);
    process.exit(1);
  }
}

/** How pg's clients, which the queue uses, say that their connection has gone; they give no code. */
const goneConnection = /^Connection terminated|is not queryable$/;

/**
 * Lets a process outlive the database's outages: a connection may fail while nobody waits for it, and what matters is
 * tried again. Whatever else is uncaught is a bug and ends the process, as usual.
 */
export function bearOutages(log: Logger): void {
  const onUncaught = (error: unknown) => {
    if (isProblem(error, "database-unavailable") || goneConnection.test((error as Error)?.message)) {
      log.warn({ err: error }, "a connection to the database failed");
      return;
    }
    log.fatal({ err: error }, "uncaught");
    process.exit(1);
  };
  process.on("uncaughtException", onUncaught);
  process.on("unhandledRejection", onUncaught);
}

/**
 * Databases for tests: one throwaway PostgreSQL for the run, one migrated template, a clone for each test file. The
 * server's guard ends it when the run's process is gone, and deletes its files, so a killed run leaves nothing.
 */
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../src/db/client.ts";
import { startEmbedded } from "../../src/db/embedded.ts";
import { migrate, migrationsDirectory, readMigrations } from "../../src/db/migrate.ts";
import { findProcess, ownProcess } from "../../src/db/process-table.ts";
import { makeScratch, scratchParent } from "./scratch.ts";

export interface FreshDatabase {
  url: string;
  /** Ends the connections that are still open and drops it. */
  drop(): Promise<void>;
}

/** Names the schema: our migrations, and the queue's by its release. */
const version = () => {
  const worker = readFileSync(join(import.meta.dirname, "../../node_modules/graphile-worker/package.json"), "utf8");
  const hash = createHash("sha256").update(JSON.parse(worker).version);
  if (existsSync(migrationsDirectory)) {
    for (const { name, checksum } of readMigrations(migrationsDirectory)) hash.update(`${name} ${checksum}\n`);
  }
  return hash.digest("hex").slice(0, 12);
};

/** Kept on the global object: it must be one for the process, however often the runner loads this module anew. */
const shared = globalThis as {
  atelierTestServer?: Promise<{ admin: ReturnType<typeof connect>; base: string; template: string }>;
};

/**
 * A database of the newest schema, empty but for what migrations insert. Takes some 20 ms after the first.
 *
 * @param isMigrated false for one without any table, to test migrating itself
 */
export async function freshDatabase({ isMigrated = true } = {}): Promise<FreshDatabase> {
  shared.atelierTestServer ??= startServer();
  const { admin, base, template } = await shared.atelierTestServer;
  const name = `atelier_test_${randomBytes(6).toString("hex")}`;
  await admin.unsafe(`create database ${name} template ${isMigrated ? template : "template0"} strategy file_copy`);
  return {
    url: urlOf(base, name),
    async drop() {
      await admin.unsafe(`drop database if exists ${name} with (force)`);
    },
  };
}

/** `ATELIER_TEST_DATABASE_URL`: a server to use instead, by a role that may create databases. */
async function startServer() {
  const base = process.env.ATELIER_TEST_DATABASE_URL || (await startThrowaway());
  const admin = connect(base, { max: 2, name: "atelier tests", idleSeconds: 5 });
  const template = `atelier_template_${version()}`;
  const session = await admin.reserve();
  try {
    // On a server of others a second run may build the same template; in our own there is nobody else.
    await session`select pg_advisory_lock(hashtext(${template}))`;
    const [found] = await session`select 1 from pg_database where datname = ${template}`;
    if (!found) await buildTemplate(session, base, template);
    await session`select pg_advisory_unlock(hashtext(${template}))`;
  } finally {
    session.release();
  }
  return { admin, base, template };
}

/** Under another name first: a template that exists is a whole one. */
async function buildTemplate(session: { unsafe(text: string): PromiseLike<unknown> }, base: string, template: string) {
  await session.unsafe(`drop database if exists ${template}_new with (force)`);
  await session.unsafe(`create database ${template}_new template template0 encoding 'UTF8'`);
  if (existsSync(migrationsDirectory)) await migrate(urlOf(base, `${template}_new`));
  await session.unsafe(`alter database ${template}_new rename to ${template}`);
}

async function startThrowaway(): Promise<string> {
  sweep();
  const { pid, started } = ownProcess();
  const directory = makeScratch(`atelier-test-${pid}-${started.replaceAll(/\W/g, "_")}-`);
  return (await startEmbedded({ directory, isThrowaway: true })).url;
}

/** What runs left that were killed together with their guard. */
function sweep(): void {
  for (const name of readdirSync(scratchParent)) {
    const [, pid, started] = /^atelier-test-(\d+)-(\w+)-\w{6}$/.exec(name) ?? [];
    if (!pid || findProcess(Number(pid))?.started.replaceAll(/\W/g, "_") === started) continue;
    rmSync(join(scratchParent, name), { recursive: true, force: true });
  }
}

function urlOf(base: string, name: string): string {
  const url = new URL(base);
  url.pathname = `/${name}`;
  return url.href;
}

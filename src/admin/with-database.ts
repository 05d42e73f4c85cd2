/** The database, for the operator's commands: whoever runs it, or nobody. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { BootError } from "../boot.ts";
import { type Config, readConfig } from "../config.ts";
import { connect, DatabaseError, describeDatabaseError, type Sql } from "../db/client.ts";
import { findEmbedded, startEmbedded } from "../db/embedded.ts";
import { takeLock } from "../up/lock.ts";
import { UpError } from "../up/up-error.ts";

/**
 * The database of the settings; an embedded one that is at rest is started, and stopped afterwards.
 *
 * @param mayMake an embedded one that does not exist yet is made
 * @throws BootError, DatabaseError in one line
 */
export async function withDatabase(
  work: (sql: Sql, config: Config, url: string) => Promise<void>,
  { mayMake = false } = {},
): Promise<void> {
  const config = readConfig(process.env);
  const { url, close } = await openDatabase(config, mayMake);
  const sql = connect(url, { max: 3, name: "atelier admin" });
  try {
    await work(sql, config, url);
  } catch (error) {
    if (error instanceof BootError) throw error;
    if ((error as { code?: string }).code === "42P01") {
      throw new BootError("The database is not migrated: run `bun run migrate`");
    }
    throw new DatabaseError(describeDatabaseError(error, url));
  } finally {
    await sql.end({ timeout: 1 });
    await close();
  }
}

async function openDatabase(config: Config, mayMake: boolean): Promise<{ url: string; close: () => Promise<void> }> {
  const running = config.databaseUrl ?? findEmbedded(config.dataDir);
  if (running) return { url: running, close: async () => {} };
  if (!mayMake && !existsSync(join(config.dataDir, "database.json"))) {
    throw new BootError(`No database: DATABASE_URL is not set and ${config.dataDir} holds none`);
  }
  try {
    const lock = await takeLock(config.dataDir);
    const embedded = await startEmbedded({ directory: config.dataDir });
    const close = async () => {
      await embedded.stop();
      lock.release();
    };
    return { url: embedded.url, close };
  } catch (error) {
    throw error instanceof UpError ? new BootError(error.message) : error;
  }
}

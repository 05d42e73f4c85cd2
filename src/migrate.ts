/** `bun run migrate`: applies `sql/` to DATABASE_URL, or to the embedded database that runs on DATA_DIR. */
import { ConfigError, readConfig } from "./config.ts";
import { DatabaseError } from "./db/client.ts";
import { findEmbedded } from "./db/embedded.ts";
import { migrate } from "./db/migrate.ts";

try {
  const config = readConfig(process.env);
  const url = config.databaseUrl ?? findEmbedded(config.dataDir);
  if (!url) throw new DatabaseError(`DATABASE_URL is not set, and no embedded database runs on ${config.dataDir}`);
  const applied = await migrate(url);
  console.log(applied.length === 0 ? "Nothing to do: the database is up to date." : `Applied ${applied.join(", ")}.`);
} catch (error) {
  if (!(error instanceof ConfigError || error instanceof DatabaseError)) throw error;
  console.error(error.message);
  process.exit(1);
}

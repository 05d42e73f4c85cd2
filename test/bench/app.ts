/** The real app on a throwaway database, for the benchmarks. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { createApp } from "../../src/app.ts";
import { createSecrets } from "../../src/auth/secrets.ts";
import { openSession } from "../../src/auth/session.ts";
import { readConfig } from "../../src/config.ts";
import { connect } from "../../src/db/client.ts";
import { createCatalogueSource } from "../../src/params/catalogue.ts";
import { createLiveModels } from "../../src/pool/live-models.ts";
import { createLinks } from "../../src/rest/links.ts";
import { openStorage, temporaryDirectory } from "../../src/storage/index.ts";
import { freshDatabase } from "../helpers/database.ts";

export interface Account {
  token: string;
}

/** @param databaseUrl one that exists already; a fresh one when left out */
export async function startBenchApp(databaseUrl?: string) {
  const database = databaseUrl ? { url: databaseUrl, drop: async () => {} } : await freshDatabase();
  const directory = mkdtempSync(join(tmpdir(), "atelier-bench-"));
  const config = readConfig({ DATA_DIR: directory, PUBLIC_URL: "http://atelier.test", RATE_LIMIT: "0" });
  const sql = connect(database.url, { max: 8, name: "atelier bench" });
  const secrets = createSecrets("a secret key of thirty-two letters");
  const app = createApp({
    config,
    sql,
    secrets,
    links: createLinks(config.publicUrl, secrets),
    storage: openStorage(config),
    catalogue: createCatalogueSource(sql),
    log: pino({ level: "error" }),
    listModels: createLiveModels(sql, secrets),
    temporaryDirectory: temporaryDirectory(config),
  });
  return {
    app,
    sql,
    databaseUrl: database.url,
    async logIn(userId: number, admin: boolean): Promise<Account> {
      await sql`update users set admin = ${admin} where id = ${userId}`;
      return openSession(sql, { userId, ip: "192.0.2.1", userAgent: "bench" });
    },
    async get(path: string, token?: string) {
      const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await app.fetch(new Request(`http://atelier.test${path}`, { headers }), { address: "192.0.2.1" });
      const body = await answer.json();
      if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${JSON.stringify(body)}`);
      return body as { total: number };
    },
    async stop() {
      await sql.end({ timeout: 1 });
      await database.drop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

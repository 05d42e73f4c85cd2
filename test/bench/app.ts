/** The real app on a seeded database, for the benchmarks. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { createApp } from "../../src/app.ts";
import { createSecrets } from "../../src/auth/secrets.ts";
import { openSession } from "../../src/auth/session.ts";
import { readConfig } from "../../src/config.ts";
import { type ConnectOptions, connect } from "../../src/db/client.ts";
import { createCatalogueSource } from "../../src/params/catalogue.ts";
import { createLiveModels } from "../../src/pool/live-models.ts";
import { createLinks } from "../../src/rest/links.ts";
import { openStorage, temporaryDirectory } from "../../src/storage/index.ts";

export type BenchApp = ReturnType<typeof openBenchApp>;

export function openBenchApp(
  databaseUrl: string,
  { max = 8, onStatement }: Pick<ConnectOptions, "max" | "onStatement"> = {},
) {
  const directory = mkdtempSync(join(tmpdir(), "atelier-bench-"));
  const config = readConfig({
    DATA_DIR: directory,
    PUBLIC_URL: "http://atelier.test",
    RATE_LIMIT_READS: "0",
    RATE_LIMIT_WRITES: "0",
  });
  const sql = connect(databaseUrl, { max, name: "atelier bench", onStatement });
  const secrets = createSecrets("a secret key of thirty-two letters");
  const storage = openStorage(config);
  const app = createApp({
    config,
    sql,
    secrets,
    links: createLinks(config.publicUrl, secrets),
    storage,
    catalogue: createCatalogueSource(sql),
    log: pino({ level: "error" }),
    listModels: createLiveModels(secrets),
    temporaryDirectory: temporaryDirectory(config),
  });
  const fetch = (request: Request) => app.fetch(request, { address: "192.0.2.1" });
  return {
    fetch,
    sql,
    config,
    secrets,
    storage,
    /** The token of a new session. */
    async logIn(userId: number, admin: boolean): Promise<string> {
      await sql`update users set admin = ${admin} where id = ${userId}`;
      return (await openSession(sql, { userId, ip: "192.0.2.1", userAgent: "bench" })).token;
    },
    async get(path: string, token?: string | null) {
      const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch(new Request(`http://atelier.test${path}`, { headers }));
      const body = await answer.json();
      if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${JSON.stringify(body)}`);
      return body as { total: number };
    },
    async stop() {
      await sql.end({ timeout: 1 });
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A second API process as tests see it: another app and another pool on the same database, with the same key. */
import { afterAll } from "bun:test";
import { createApp } from "../../src/app.ts";
import type { Config } from "../../src/config.ts";
import { connect } from "../../src/db/client.ts";
import { createCatalogueSource } from "../../src/params/catalogue.ts";
import { createLinks } from "../../src/rest/links.ts";
import { temporaryDirectory } from "../../src/storage/index.ts";
import { type Answer, type CallOptions, read, type TestApp, toRequest } from "./app.ts";

export type Call = (method: string, path: string, options?: CallOptions & { from?: string }) => Promise<Answer>;

/**
 * @param changes `databaseUrl`: of another database than the app's
 * @returns like the app's own `call`, with `from` for the address of the socket's other end
 */
export function anotherProcess(app: TestApp, changes: Partial<Config> = {}): Call {
  const config = { ...app.config, ...changes };
  const sql = connect(config.databaseUrl ?? app.databaseUrl, { max: 6, name: "atelier test process" });
  const { secrets, storage, log } = app;
  const other = createApp({
    config,
    sql,
    secrets,
    links: createLinks(config.publicUrl, secrets),
    storage,
    catalogue: createCatalogueSource(sql),
    log,
    listModels: async () => [],
    temporaryDirectory: temporaryDirectory(config),
  });
  afterAll(() => sql.end({ timeout: 1 }));
  return async (method, path, { from = "192.0.2.1", ...options } = {}) =>
    read(await other.fetch(toRequest(method, `${config.publicUrl}${path}`, options), { address: from }));
}

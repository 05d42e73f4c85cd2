/**
 * What an engine has to offer, asked live for the API with a short cache and a short time limit: its owner's files, for
 * ours are our users' and shown as models only.
 */
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";
import type { Driver, EngineModels, EngineTarget } from "../drivers/driver.ts";
import { driverOf } from "../drivers/index.ts";
import { isOurFile } from "../drivers/our-files.ts";
import { findServer, toTarget } from "./server.ts";

const cacheMs = 5_000;
const timeoutMs = 1_000;

const labels: Record<keyof EngineModels, string> = {
  checkpoints: "checkpoint",
  loras: "lora",
  hypernetworks: "hypernetwork",
  embeddings: "embedding",
};

interface Asked {
  at: number;
  models: Promise<{ type: string; name: string }[]>;
  /** What the server's row is read by; null once it was. */
  by: Sql | null;
}

/**
 * The returned function never throws, and a silent engine has no models after a second. Inside a write it is given the
 * transaction, which must not wait for another connection, nor for somebody who waits for one: it may never come free.
 */
export function createLiveModels(secrets: Secrets) {
  const cache = new Map<number, Asked>();
  return (sql: Sql, serverId: number): Asked["models"] => {
    const known = cache.get(serverId);
    const isOthers = known && known.by !== null && known.by !== sql;
    if (known && !isOthers && performance.now() - known.at < cacheMs) return known.models;
    const models = findServer(sql, serverId)
      .then((server) => {
        asked.by = null;
        const driver = server?.engine ? driverOf(server.engine) : null;
        if (server && driver) return ask(driver, toTarget(server, secrets));
        // Gone, or not probed yet: no answer to remember.
        cache.delete(serverId);
        return [];
      })
      .catch(() => []);
    const asked: Asked = { at: performance.now(), models, by: sql };
    cache.set(serverId, asked);
    return models;
  };
}

async function ask(driver: Driver, target: EngineTarget) {
  const found = await driver.listModels(target, AbortSignal.timeout(timeoutMs));
  return Object.entries(labels).flatMap(([kind, type]) =>
    found[kind as keyof EngineModels].filter((name) => !isOurFile(name)).map((name) => ({ type, name })),
  );
}

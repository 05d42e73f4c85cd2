/**
 * What an engine has to offer, asked live for the API with a short cache and a short time limit: its owner's files, for
 * ours are our users' and shown as models only.
 */
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";
import type { EngineModels } from "../drivers/driver.ts";
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

/** The returned function never throws and never takes longer than a second: a silent engine has no models. */
export function createLiveModels(sql: Sql, secrets: Secrets) {
  const cache = new Map<number, { at: number; models: Promise<{ type: string; name: string }[]> }>();
  return (serverId: number): Promise<{ type: string; name: string }[]> => {
    const known = cache.get(serverId);
    if (known && performance.now() - known.at < cacheMs) return known.models;
    const models = ask(sql, secrets, serverId)
      .catch(() => [])
      .then((found) => {
        // Not committed yet, or gone: no answer to remember.
        if (found === null) cache.delete(serverId);
        return found ?? [];
      });
    cache.set(serverId, { at: performance.now(), models });
    return models;
  };
}

/** Null when there is no such server. */
async function ask(sql: Sql, secrets: Secrets, serverId: number) {
  const server = await findServer(sql, serverId);
  if (!server) return null;
  const driver = server.engine ? driverOf(server.engine) : null;
  if (!driver) return [];
  const found = await driver.listModels(toTarget(server, secrets), AbortSignal.timeout(timeoutMs));
  return Object.entries(labels).flatMap(([kind, type]) =>
    found[kind as keyof EngineModels].filter((name) => !isOurFile(name)).map((name) => ({ type, name })),
  );
}

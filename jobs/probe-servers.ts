/** `probe-servers`: asks one server, or all, how they are. May run twice. */
import { z } from "zod";
import { driverOf } from "../src/drivers/index.ts";
import { evictModels } from "../src/pool/placements.ts";
import { type ProbeFailure, probeServer, recordFailure } from "../src/pool/probe.ts";
import { findServer, type ServerRow, toTarget } from "../src/pool/server.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ server_id: z.int().optional() });
/** Asked at once; a thousand servers must not open a thousand sockets. */
const parallel = 20;
const evictTimeoutMs = 30_000;
/** For so long a round in which nobody could be reached is thought to be ours. */
const doubtMs = 60_000;

type ProbeDeps = Pick<JobDeps, "sql" | "secrets" | "log" | "maxPlacedBytes">;

export function createProbeServers(deps: ProbeDeps) {
  const { sql, secrets, log } = deps;
  return async (payload: unknown): Promise<void> => {
    const { server_id } = payloadSchema.parse(payload);
    const ids = server_id
      ? [server_id]
      : (await sql<{ id: number }[]>`select id from servers order by last_seen_at nulls first`).map((row) => row.id);
    const asked = ids.length;
    const failures: ProbeFailure[] = [];
    const next = async (): Promise<void> => {
      for (let id = ids.shift(); id !== undefined; id = ids.shift()) {
        const server = await findServer(sql, id);
        if (!server) continue;
        const failure = await probeServer(sql, secrets, server);
        if (failure) failures.push(failure);
        else await evict(deps, server);
      }
    };
    await Promise.all(Array.from({ length: parallel }, next));
    const isOurs = asked > 1 && failures.length === asked && failures.every(({ isUnreachable }) => isUnreachable);
    for (const failure of failures) {
      if (isOurs && isSeenLately(failure.server)) log.warn({ serverId: failure.server.id }, "no server can be reached");
      else await recordFailure(sql, failure);
    }
  };
}

/** When all servers are gone at once it is more likely that we are. */
function isSeenLately({ last_seen_at }: ServerRow): boolean {
  return last_seen_at !== null && Date.now() - Date.parse(last_seen_at) < doubtMs;
}

/** A host whose files cannot be reached at the moment keeps what it has. */
async function evict(
  { sql, secrets, log, maxPlacedBytes = Number.POSITIVE_INFINITY }: ProbeDeps,
  server: ServerRow,
): Promise<void> {
  const driver = server.engine && server.shared_dir ? driverOf(server.engine) : null;
  if (!driver) return;
  const signal = AbortSignal.timeout(evictTimeoutMs);
  try {
    const removed = await evictModels(sql, server.id, driver, toTarget(server, secrets), maxPlacedBytes, signal);
    if (removed > 0) log.info({ serverId: server.id, removed }, "models evicted");
  } catch (error) {
    log.warn({ serverId: server.id, err: error }, "models could not be evicted");
  }
}

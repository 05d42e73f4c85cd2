/** `probe-servers`: asks one server, or all, how they are. May run twice. */
import { z } from "zod";
import { probeServer } from "../src/pool/probe.ts";
import { findServer } from "../src/pool/server.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ server_id: z.int().optional() });
/** Asked at once; a thousand servers must not open a thousand sockets. */
const parallel = 20;

export function createProbeServers({ sql, secrets }: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    const { server_id } = payloadSchema.parse(payload);
    const ids = server_id
      ? [server_id]
      : (await sql<{ id: number }[]>`select id from servers order by last_seen_at nulls first`).map((row) => row.id);
    const next = async (): Promise<void> => {
      for (let id = ids.shift(); id !== undefined; id = ids.shift()) {
        const server = await findServer(sql, id);
        if (server) await probeServer(sql, secrets, server);
      }
    };
    await Promise.all(Array.from({ length: parallel }, next));
  };
}

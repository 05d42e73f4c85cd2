/** `cancel-run`: ends a run on its engine. Carries the engine's handle, so it outlives the task's row. May run twice. */
import { z } from "zod";
import type { EngineHandle } from "../src/drivers/driver.ts";
import { driverOf } from "../src/drivers/index.ts";
import { findServer, toTarget } from "../src/pool/server.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({
  server_id: z.int(),
  handle: z.object({ run: z.looseObject({ engine: z.string() }) }),
});
const timeoutMs = 10_000;

export function createCancelRun({ sql, secrets }: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    const { server_id, handle } = payloadSchema.parse(payload);
    const server = await findServer(sql, server_id);
    const run = handle.run as EngineHandle;
    const driver = driverOf(run.engine);
    if (!server || !driver) return;
    // An engine that cannot be reached throws, and the queue tries again later.
    await driver.cancel(toTarget(server, secrets), run, AbortSignal.timeout(timeoutMs));
  };
}

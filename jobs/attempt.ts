/** What the two kinds of work have in common: one attempt of a task on the server that it was leased. */
import type { Driver, EngineTarget } from "../src/drivers/driver.ts";
import type { Work } from "../src/pool/inputs.ts";
import { freeSlot, type Lease } from "../src/pool/lease.ts";
import { LeaseLost } from "../src/pool/outcome.ts";
import type { createPace } from "../src/pool/pace.ts";
import type { Patience } from "../src/pool/persist.ts";
import type { JobDeps } from "./handler.ts";

export interface Attempt {
  deps: JobDeps;
  lease: Lease;
  work: Work;
  driver: Driver;
  target: EngineTarget;
  signal: AbortSignal;
  pace: ReturnType<typeof createPace>;
}

/** With an engine that is asked for what it made: the work is done, and not thrown away for a slip. */
export const resultPatience: Patience = { awayMs: null, errors: 3 };

/** The engine has done all its work: the next task may have the slot while this one's files are stored. @throws LeaseLost */
export async function leaveSlot({ deps, lease }: Attempt): Promise<void> {
  if (!(await freeSlot(deps.sql, lease))) throw new LeaseLost();
}

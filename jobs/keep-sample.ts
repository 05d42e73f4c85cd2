/** Pictures that an engine makes with a model while it trains it: shown at once, and kept with the task, small. */
import type { Sql } from "../src/db/client.ts";
import type { Artifact, Driver, EngineTarget } from "../src/drivers/driver.ts";
import type { Lease } from "../src/pool/lease.ts";
import { makePreview } from "../src/storage/pictures.ts";
import type { JobDeps } from "./handler.ts";
import { readAtMost } from "./read-at-most.ts";

const maxBytes = 50_000_000;
const timeoutMs = 30_000;

export interface Sampled {
  deps: Pick<JobDeps, "sql" | "log">;
  lease: Lease;
  driver: Driver;
  target: EngineTarget;
  signal: AbortSignal;
}

/**
 * @param onPreview takes each picture as the engine made it
 * @returns `take`, which returns at once, for the training is not to wait; `taken` waits for all, before the attempt ends
 */
export function createSampler(run: Sampled, onPreview: (bytes: Uint8Array) => void) {
  const { deps, lease, driver, target, signal } = run;
  // One after another: a run that is found again tells all that it has at once.
  let last: Promise<void> = Promise.resolve();
  return {
    take(artifact: Artifact): void {
      last = last.then(async () => {
        try {
          const limited = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
          const bytes = await readAtMost(await driver.fetch(target, artifact, limited), maxBytes);
          onPreview(bytes);
          await keep(deps.sql, lease, artifact.step ?? 0, await makePreview(bytes));
        } catch (error) {
          // A training is worth more than its samples.
          if (!signal.aborted) deps.log.warn({ taskId: lease.taskId, err: error }, "a sample could not be kept");
        }
      });
    },
    taken: (): Promise<void> => last,
  };
}

/** Fenced by the lease. */
async function keep(sql: Sql, lease: Lease, step: number, bytes: Uint8Array): Promise<void> {
  await sql`
    insert into samples (task_id, step, bytes)
    select id, ${step}::int, ${bytes}::bytea
    from tasks
    where id = ${lease.taskId} and lease_epoch = ${lease.epoch} and status = 'running'
    on conflict (task_id, step) do update
    set number = excluded.number, bytes = excluded.bytes
    where samples.bytes <> excluded.bytes
  `;
}

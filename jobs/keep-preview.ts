/** Pictures that the engine shows of its work, on their way to those who watch: small, and at most two a second. */
import type { Sql } from "../src/db/client.ts";
import type { Lease } from "../src/pool/lease.ts";
import { makePreview } from "../src/storage/pictures.ts";
import type { JobDeps } from "./handler.ts";

const everyMs = 500;

/**
 * @param imageId the image that is made; null for a model
 * @returns takes a picture as the engine sent it, and returns at once: the run does not wait for it
 */
export function createPreviewer({ sql, log }: Pick<JobDeps, "sql" | "log">, lease: Lease, imageId: number | null) {
  let keptAt = Number.NEGATIVE_INFINITY;
  let isBusy = false;
  return (bytes: Uint8Array): void => {
    const now = performance.now();
    if (isBusy || now - keptAt < everyMs) return;
    keptAt = now;
    isBusy = true;
    keep(sql, lease, imageId, bytes)
      // Nobody waits for this one; the next picture may be better.
      .catch((error) => log.debug({ taskId: lease.taskId, err: error }, "a preview could not be kept"))
      .finally(() => {
        isBusy = false;
      });
  };
}

/** Fenced by the lease. The task's row is locked, so that none is kept after the end has taken the last one away. */
async function keep(sql: Sql, lease: Lease, imageId: number | null, bytes: Uint8Array): Promise<void> {
  const preview = await makePreview(bytes);
  await sql`
    with running as (
      select id from tasks
      where id = ${lease.taskId} and lease_epoch = ${lease.epoch} and status = 'running'
      for share
    )
    insert into previews (task_id, image_id, bytes)
    select id, ${imageId}::int, ${preview}::bytea from running
    on conflict (task_id) do update
    set image_id = excluded.image_id, number = excluded.number, bytes = excluded.bytes
  `;
}

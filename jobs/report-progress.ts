/** Progress on its way to the database: fenced, throttled, never backwards. */
import type { Sql } from "../src/db/client.ts";
import type { Progress } from "../src/pool/follow.ts";
import type { Lease } from "../src/pool/lease.ts";
import { LeaseLost } from "../src/pool/outcome.ts";

/** Five writes a second are as many as anybody can watch. */
const everyMs = 200;
const maxLosses = 400;

/** @param lease whose epoch fences every write; the methods throw LeaseLost when it is gone */
export function createReporter(sql: Sql, lease: Lease) {
  let writtenAt = 0;
  let phase = "";
  let losses: [number, number][] = [];

  const isDue = (progress: Progress): boolean => {
    const now = performance.now();
    const isDue = progress.phase !== phase || now - writtenAt >= everyMs;
    if (isDue) {
      writtenAt = now;
      phase = progress.phase;
    }
    return isDue;
  };
  // 100 is for what has ended.
  const percent = (share: number) => Math.max(0, Math.min(99, Math.floor(share * 100)));

  return {
    async task(progress: Progress, share: number): Promise<void> {
      if (progress.loss !== undefined) {
        losses.push([progress.step, progress.loss]);
        if (losses.length > maxLosses) losses = losses.filter((_, index) => index % 2 === 0);
      }
      if (!isDue(progress)) return;
      const written = await sql`
        update tasks
        set progress = greatest(progress, ${percent(share)}), stage = ${progress.phase}
        where id = ${lease.taskId} and lease_epoch = ${lease.epoch} and status = 'running'
      `;
      if (written.count === 0) throw new LeaseLost();
    },

    async image(progress: Progress, imageId: number, share: number, taskShare: number): Promise<void> {
      if (!isDue(progress)) return;
      const [written] = await sql<{ tasks: number }[]>`
        with task as (
          update tasks
          set progress = greatest(progress, ${percent(taskShare)}), stage = ${progress.phase}
          where id = ${lease.taskId} and lease_epoch = ${lease.epoch} and status = 'running'
          returning id
        ), image as (
          update images
          set status = 'running', progress = greatest(images.progress, ${percent(share)}), error = null
          from task
          where images.id = ${imageId} and images.status <> 'success'
        )
        select count(*) as tasks from task
      `;
      if (!written?.tasks) throw new LeaseLost();
    },

    /** [step, loss], thinned to a few hundred points. */
    losses: () => losses,
  };
}

/** How an attempt ends: every write here is fenced by the lease's epoch. */
import type { Sql } from "../db/client.ts";
import type { EngineError } from "../drivers/driver.ts";
import type { Lease } from "./lease.ts";

/** The lease has gone to another, or the task was canceled or deleted: stop, and write nothing. */
export class LeaseLost extends Error {
  override readonly name = "LeaseLost";
}

/** How fast the engine went while it was at the steps themselves. */
export interface Pace {
  steps: number;
  perSecond: number;
}

export interface TaskError {
  class: string;
  detail: string;
}

/** Runs `work` in a transaction that holds the task's row, if the lease still stands. @throws LeaseLost */
export async function fenced<T>(sql: Sql, lease: Lease, work: (tx: Sql) => Promise<T>): Promise<T> {
  const done = await sql.begin(async (tx) => {
    const [task] = await tx`
      select from tasks where id = ${lease.taskId} and lease_epoch = ${lease.epoch} and status = 'running' for update
    `;
    if (!task) throw new LeaseLost();
    return { value: await work(tx as unknown as Sql) };
  });
  return (done as { value: T }).value;
}

export type Outcome =
  | { status: "success" }
  | { status: "error"; error: TaskError }
  /** Back into the queue. */
  | { status: "waiting"; error: TaskError };

/** Ends the attempt and frees the slot, in the transaction that writes the outcome. */
export async function finish(tx: Sql, lease: Lease, outcome: Outcome, pace: Pace | null = null): Promise<void> {
  const isOver = outcome.status !== "waiting";
  const error = outcome.status === "success" ? null : outcome.error;
  await tx`
    select end_attempt(
      ${lease.taskId}, ${isOver ? outcome.status : "retry"}, ${error?.class ?? null},
      ${pace?.steps ?? null}::int, ${pace?.perSecond ?? null}::double precision
    )
  `;
  await tx`
    update tasks
    set status = ${outcome.status},
      progress = case ${outcome.status} when 'success' then 100 when 'waiting' then 0 else progress end,
      stage = null,
      error = ${isOver && error ? tx.json(error as never) : null},
      finished_at = case when ${isOver} then now() end,
      waiting_at = case when ${isOver} then waiting_at else now() end
    where id = ${lease.taskId}
  `;
}

/** Attempts at most; an engine that forgets its runs is not the task's fault, so it may happen more often. */
const maxAttempts = { failed: 3, lost: 10 };

/** Whether the task goes back into the queue after this error. */
export function isWorthRetrying(error: EngineError, attempts: number): boolean {
  if (!error.isRetryable) return false;
  // The server is set aside until it answers, so this cannot spin.
  if (error.errorClass === "unreachable") return true;
  return attempts < (error.errorClass === "engine-lost" ? maxAttempts.lost : maxAttempts.failed);
}

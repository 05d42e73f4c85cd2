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
  /** Back into the queue, at its old place. */
  | { status: "waiting"; error: TaskError; delaySeconds: number; avoid: number | null };

/** Ends the attempt and frees the slot, in the transaction that writes the outcome. */
export async function finish(tx: Sql, lease: Lease, outcome: Outcome, pace: Pace | null = null): Promise<void> {
  const isOver = outcome.status !== "waiting";
  const error = outcome.status === "success" ? null : outcome.error;
  const { delaySeconds, avoid } = outcome.status === "waiting" ? outcome : { delaySeconds: 0, avoid: null };
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
      not_before = now() + make_interval(secs => nullif(${delaySeconds}::double precision, 0)),
      avoid = case when ${avoid}::int = any (avoid) or ${avoid}::int is null then avoid else avoid || ${avoid}::int end
    where id = ${lease.taskId}
  `;
}

/** What becomes of a task after an error. */
export interface Verdict {
  isRetried: boolean;
  /** Before the next attempt. */
  delaySeconds: number;
  /** Another server may do better. */
  isServerAvoided: boolean;
  isServerAway: boolean;
  /** It speaks of the server, rather than of the task or of us. */
  isServerBlamed: boolean;
}

/** Attempts at most, those included that were not the task's fault. */
const maxTries = 10;
/** Attempts at most that failed while the engine was there. */
const maxFailures = 3;

/** The server is not there for us: it is set aside until it answers a probe. */
const away: readonly string[] = ["unreachable", "unauthorized", "untrusted"];
/** Failed attempts that say nothing of the task. */
export const innocentClasses: readonly string[] = [...away, "engine-lost"];

/**
 * @param tries attempts since the task was ordered, this one included
 * @param failures those of them, this one not, that failed while the engine was there
 */
export function judge(error: EngineError, { tries, failures }: { tries: number; failures: number }): Verdict {
  const isOwnFailure = !innocentClasses.includes(error.errorClass);
  const failed = failures + (isOwnFailure ? 1 : 0);
  return {
    isRetried: error.isRetryable && tries < maxTries && failed < maxFailures,
    // The first restart of an engine is no reason to wait. Two tasks that failed together do not come back together.
    delaySeconds: error.errorClass === "engine-lost" && tries === 1 ? 0 : 2 ** (tries - 1) * (0.5 + Math.random()),
    isServerAvoided: isOwnFailure,
    isServerAway: away.includes(error.errorClass),
    isServerBlamed: ["out-of-memory", "engine-failed", "stalled"].includes(error.errorClass),
  };
}

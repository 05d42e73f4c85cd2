/** Dispatch: gives waiting tasks to free slots of servers that can run them. The matching is in sql/0031_dispatch.sql. */
import type { Sql } from "../db/client.ts";

export interface Leased {
  taskId: number;
  epoch: number;
}

export interface Room {
  workerId: string;
  /** How many tasks more the worker can attend. */
  capacity: number;
  /** Tasks of one type that one user may have running at once. */
  maxRunning: number;
}

/** Lets tasks back into their queues whose back-off is over: before a round, which does not want their queues locked yet. */
export async function endBackOffs(sql: Sql): Promise<void> {
  await sql`select end_back_offs()`;
}

/**
 * Leases waiting tasks to a worker that takes them up at once, at most one for each free slot. Rounds of several workers
 * exclude each other, so none gives a slot or a task twice. Waiting uses up no attempts: an attempt begins here.
 * @returns what was leased; when that is something, another round may find more
 */
export async function dispatch(sql: Sql, { workerId, capacity, maxRunning }: Room): Promise<Leased[]> {
  const rows = await sql<{ task_id: number; epoch: number }[]>`
    select task_id, epoch from dispatch(${workerId}, ${capacity}, ${maxRunning})
  `;
  return rows.map(({ task_id, epoch }) => ({ taskId: task_id, epoch }));
}

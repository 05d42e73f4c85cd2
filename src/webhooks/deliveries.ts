/**
 * Deliveries in the database. The row is the truth and a job only the reminder: an attempt is claimed by the row's
 * number of tries, so a job that runs twice sends once, and one that died with its worker is added again.
 */
import type { Sql } from "../db/client.ts";
import type { Message, Outcome } from "./send.ts";

/** Waits after the first attempt, the second and so on, in seconds: three days in all, as the scheme proposes. */
const backoff = [5, 60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/** Over an attempt's own limit of time. */
const lostAfter = "30 seconds";

export interface Attempt extends Message {
  deliveryId: string;
  userId: number;
  tries: number;
}

/** Begins an attempt; null when the delivery is settled, gone, not due yet or being attempted. */
export async function claimDelivery(sql: Sql, deliveryId: string): Promise<Attempt | null> {
  const [row] = await sql<{ user_id: number; url: string; body: string; tries: number }[]>`
    update deliveries
    set tries = tries + 1, due_at = now() + ${lostAfter}::interval
    where id = ${deliveryId} and status = 'pending' and due_at <= now()
    returning user_id, url, body, tries
  `;
  if (!row) return null;
  const { user_id: userId, url, body, tries } = row;
  return { deliveryId, id: messageId(deliveryId), userId, url, body, tries };
}

/** Whose a delivery is, if it still is to be sent. */
export async function ownerOf(sql: Sql, deliveryId: string): Promise<number | null> {
  const [row] = await sql<{ user_id: number }[]>`
    select user_id from deliveries where id = ${deliveryId} and status = 'pending'
  `;
  return row?.user_id ?? null;
}

/** What the receiver knows a delivery by. */
export function messageId(deliveryId: string): string {
  return `msg_${deliveryId.replaceAll("-", "")}`;
}

/** Writes down how an attempt ended, and when the next one is due. */
export async function recordAttempt(sql: Sql, attempt: Attempt, outcome: Outcome, ms: number): Promise<void> {
  const { deliveryId, tries } = attempt;
  const wait = backoff[tries - 1];
  const isRetried = outcome.kind === "failed" && wait !== undefined;
  const status = outcome.kind === "delivered" ? "delivered" : isRetried ? "pending" : "failed";
  // Spread, so that what failed together does not come back together.
  const seconds = (wait ?? 0) * (0.9 + Math.random() / 5);
  await sql`
    with recorded as (
      update deliveries
      set status = ${status},
        attempts = attempts || jsonb_build_object(
          'at', rfc3339(now()), 'status_code', ${outcome.statusCode}::int, 'error', ${outcome.error}::text, 'ms', ${ms}::int
        ),
        due_at = case when ${isRetried} then now() + make_interval(secs => ${seconds}) end,
        settled_at = case when not ${isRetried} then now() end
      where id = ${deliveryId} and tries = ${tries} and status = 'pending'
      returning id, due_at
    )
    select ${addJob(sql)} from recorded where due_at is not null
  `;
}

/** Puts a delivery off by some seconds without counting an attempt. */
export async function postpone(sql: Sql, deliveryId: string, seconds: number): Promise<void> {
  await sql`
    with postponed as (
      update deliveries
      set due_at = now() + make_interval(secs => ${seconds})
      where id = ${deliveryId} and status = 'pending'
      returning id, due_at
    )
    select ${addJob(sql)} from postponed
  `;
}

/** Adds the jobs of deliveries again that should have been attempted by now: a job dies with its worker. */
export async function remindOverdue(sql: Sql): Promise<void> {
  await sql`
    with overdue as (
      select id, due_at from deliveries
      where status = 'pending' and due_at < now() - interval '30 seconds'
      order by due_at
      limit 1000
    )
    select count(${addJob(sql)}) from overdue
  `;
}

/**
 * Sends one delivery of a task again, to where the task's webhook points now.
 * @returns false when there is none of that number
 */
export async function redeliver(sql: Sql, taskId: number, n: number): Promise<boolean> {
  const rows = await sql`
    with again as (
      update deliveries d
      set status = 'pending', due_at = now(), settled_at = null, url = coalesce(t.webhook, d.url)
      from tasks t
      where d.task_id = ${taskId} and d.n = ${n} and t.id = d.task_id
      returning d.id, d.due_at
    )
    select ${addJob(sql)} from again
  `;
  return rows.length > 0;
}

export interface LoggedDelivery {
  n: number;
  id: string;
  event: string;
  url: string;
  status: "pending" | "delivered" | "failed";
  attempts: { at: string; status_code: number | null; error: string | null; ms: number }[];
  next_attempt_at: string | null;
  payload: Record<string, unknown>;
  created_at: string;
  settled_at: string | null;
}

/** A task's deliveries, the oldest first. */
export async function listDeliveries(
  sql: Sql,
  taskId: number,
  { limit, offset, n = null }: { limit: number; offset: number; n?: number | null },
): Promise<LoggedDelivery[]> {
  const rows = await sql<LoggedDelivery[]>`
    select n, id, 'task.' || event as event, url, status, attempts, due_at as next_attempt_at, body::jsonb as payload,
      created_at, settled_at
    from deliveries
    where task_id = ${taskId} and n = coalesce(${n}::int, n)
    order by n
    limit ${limit} offset ${offset}
  `;
  return rows.map((row) => ({ ...row, id: messageId(row.id) }));
}

/** Over `id` and `due_at`. One key a delivery: a reminder of what waits already changes nothing. */
function addJob(sql: Sql) {
  return sql`
    graphile_worker.add_job(
      'deliver-webhook', json_build_object('delivery_id', id), run_at := due_at, job_key := 'deliver ' || id,
      max_attempts := 5
    )
  `;
}

/** The job queue as SQL sees it: a job added inside a transaction exists exactly when that transaction commits. */
import type { Sql } from "./client.ts";

/** Every job and its payload. The handlers are in jobs/. */
export interface Jobs {
  "prepare-task": { task_id: number };
  "probe-servers": { server_id?: number };
  "cancel-run": { server_id: number; handle: unknown };
  "delete-files": { keys: string[] };
  "deliver-webhook": { delivery_id: string };
  "spread-sight": { referring: "images" | "models" | "tasks"; reference: "model_id" | "dataset_id"; id: number };
  sweep: Record<string, never>;
  "sweep-files": Record<string, never>;
}

/**
 * @param key jobs waiting under one key collapse into one; a job that already runs does not count
 */
export async function addJob<Name extends keyof Jobs>(
  sql: Sql,
  name: Name,
  payload: Jobs[Name],
  {
    key = null,
    maxAttempts = 12,
    delaySeconds = 0,
  }: { key?: string | null; maxAttempts?: number; delaySeconds?: number } = {},
): Promise<void> {
  await sql`
    select graphile_worker.add_job(
      ${name}, ${sql.json(payload as never)}::json, job_key := ${key}, max_attempts := ${maxAttempts}::int,
      run_at := now() + make_interval(secs => ${delaySeconds})
    )
  `;
}

/** Adds a job for each payload, in one statement. */
export async function addJobs<Name extends keyof Jobs>(sql: Sql, name: Name, payloads: Jobs[Name][]): Promise<void> {
  if (payloads.length === 0) return;
  await sql`
    select graphile_worker.add_job(${name}, payload, max_attempts := 12)
    from json_array_elements(${sql.json(payloads as never)}::json) payload
  `;
}

/**
 * Wakes the workers at commit: a task may be dispatched, or a slot is free. No job: one that everybody adds under one
 * key makes all writers wait for each other's commits. What is lost with a connection is made up for by a slow poll.
 */
export async function dispatchSoon(sql: Sql): Promise<void> {
  await sql`select pg_notify('pool', '')`;
}

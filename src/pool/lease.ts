/**
 * Leases: who runs which task on which server. A lease lives as long as its worker's heartbeat, both by the database's
 * clock. Every hand-over raises the task's epoch, and what carries an older epoch changes nothing.
 */
import type { Sql } from "../db/client.ts";
import type { EngineHandle } from "../drivers/driver.ts";

const workerTtl = "10 seconds";

/** Says that a worker lives; to be renewed every third of ten seconds. */
export async function beat(sql: Sql, worker: { id: string; host: string }): Promise<void> {
  await sql`
    insert into workers (id, host, expires_at)
    values (${worker.id}, ${worker.host}, now() + ${workerTtl}::interval)
    on conflict (id) do update set expires_at = excluded.expires_at
  `;
}

/** A worker that stops leaves its leases to whoever comes next: at once, not after the heartbeat has run out. */
export async function resign(sql: Sql, workerId: string): Promise<void> {
  await sql`update leases set worker_id = null, claim_by = now() where worker_id = ${workerId}`;
  await sql`delete from workers where id = ${workerId}`;
  await sweepLeases(sql);
}

export interface Lease {
  taskId: number;
  serverId: number;
  epoch: number;
  /** The run that an earlier holder left on the engine, and what it belongs to. */
  handle: StoredHandle | null;
}

/** `part` tells which run of the task it is: `train`, `cover` or `image <id>`. */
export interface StoredHandle {
  part: string;
  run: EngineHandle;
}

/**
 * Takes up a task that was dispatched to whichever worker comes first; null when another did, or it is over. A worker
 * may claim again what it holds already: its job was tried again after an error of the database.
 */
export async function claim(
  sql: Sql,
  workerId: string,
  { taskId, epoch }: { taskId: number; epoch: number },
): Promise<Lease | null> {
  const [row] = await sql<{ server_id: number; handle: StoredHandle | null }[]>`
    update leases l
    set worker_id = ${workerId}
    from tasks t
    where l.task_id = ${taskId}
      and coalesce(l.worker_id, ${workerId}) = ${workerId}
      and t.id = l.task_id
      and t.lease_epoch = ${epoch}
      and t.status = 'running'
    returning l.server_id, l.handle
  `;
  return row ? { taskId, epoch, serverId: row.server_id, handle: row.handle } : null;
}

/** Keeps the handle of a run before it is submitted. False when the lease is lost: then nothing may be submitted. */
export async function storeHandle(sql: Sql, lease: Lease, handle: StoredHandle): Promise<boolean> {
  const stored = await sql`
    update leases l
    set handle = ${sql.json(handle as never)}
    from tasks t
    where l.task_id = ${lease.taskId}
      and t.id = l.task_id
      and t.lease_epoch = ${lease.epoch}
  `;
  return stored.count > 0;
}

/** The tasks that a worker holds, with their epochs; what it runs beside these, it has lost. */
export async function heldBy(sql: Sql, workerId: string): Promise<Map<number, number>> {
  const rows = await sql<{ id: number; lease_epoch: number }[]>`
    select t.id, t.lease_epoch from leases l join tasks t on t.id = l.task_id where l.worker_id = ${workerId}
  `;
  return new Map(rows.map((row) => [row.id, row.lease_epoch]));
}

/** Puts one lease back for any worker to take up, without touching the run on the engine. */
export async function release(sql: Sql, taskId: number, workerId: string): Promise<void> {
  await sql`update leases set worker_id = null, claim_by = now() where task_id = ${taskId} and worker_id = ${workerId}`;
}

/**
 * Gives every task whose worker is dead, or that nobody claimed in time, to another: the epoch rises and a new job is
 * added, in one statement. The slot on the server stays taken, since the run there may well go on.
 */
export async function sweepLeases(sql: Sql): Promise<number> {
  const [row] = await sql<{ count: number }[]>`
    with lost as (
      select l.task_id
      from leases l
      left join workers w on w.id = l.worker_id and w.expires_at > now()
      where w.id is null
        and (l.worker_id is not null or l.claim_by <= now())
      for update of l skip locked
    ), freed as (
      update leases l
      set worker_id = null, claim_by = now() + interval '10 seconds'
      from lost
      where l.task_id = lost.task_id
    ), handed as (
      update tasks t
      set lease_epoch = t.lease_epoch + 1
      from lost
      where t.id = lost.task_id
      returning t.id, t.lease_epoch
    )
    select count(graphile_worker.add_job(
      'run-task', json_build_object('task_id', id, 'epoch', lease_epoch), max_attempts := 3
    )) as count
    from handed
  `;
  await sql`delete from workers where expires_at < now() - interval '1 hour'`;
  return row?.count ?? 0;
}

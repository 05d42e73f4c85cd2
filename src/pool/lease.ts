/**
 * Leases: who runs which task on which server. A lease lives as long as its worker's heartbeat, both by the database's
 * clock. Every hand-over raises the task's epoch, and what carries an older epoch changes nothing.
 */
import type { Sql } from "../db/client.ts";
import { EngineError, type EngineHandle, type Phase } from "../drivers/driver.ts";
import type { Leased } from "./dispatch.ts";
import { address } from "./server.ts";

const workerTtl = "10 seconds";
/** Stall limits are minutes long: moving them this often is often enough. */
const advanceMs = 5_000;

export interface WorkerRow {
  id: string;
  host: string;
  /** Tasks that it attends at once. */
  concurrency: number;
  /** What its jobs are locked by in the queue. */
  lockedBy: string[];
}

/**
 * Says that a worker lives, and by which ids its jobs are locked in the queue; to be renewed every third of ten seconds.
 * @returns whether it was known to live: not at first, nor when the database was away for so long that nobody was
 */
export async function beat(sql: Sql, worker: WorkerRow): Promise<boolean> {
  const [row] = await sql<{ lived: boolean }[]>`
    with before as (
      select expires_at > now() as lived, now() - (expires_at - ${workerTtl}::interval) as unwatched
      from workers
      where id = ${worker.id}
    ), excused as (
      update leases l set stall_at = l.stall_at + b.unwatched
      from before b
      where l.worker_id = ${worker.id} and not b.lived
    ), written as (
      insert into workers (id, host, concurrency, locked_by, expires_at)
      values (
        ${worker.id}, ${worker.host}, ${worker.concurrency}, ${worker.lockedBy}::text[],
        now() + ${workerTtl}::interval
      )
      on conflict (id) do update set locked_by = excluded.locked_by, expires_at = excluded.expires_at
    )
    select coalesce((select lived from before), false) as lived
  `;
  return row?.lived ?? false;
}

/** A worker that stops leaves its leases to whoever comes next: at once, not after the heartbeat has run out. */
export async function resign(sql: Sql, workerId: string): Promise<void> {
  await sql`delete from workers where id = ${workerId}`;
  await sweepLeases(sql);
}

export interface Lease {
  taskId: number;
  serverId: number;
  epoch: number;
  /** The run that an earlier holder left on the engine, and what it belongs to. */
  handle: StoredHandle | null;
  /** How often a worker gave it up for an error of its own. */
  breaks: number;
  /** When `advance` last wrote, by this process's own clock. */
  advanced?: { key: string; at: number };
}

export type Stage = Phase | "queued" | "storing";

/** One run of a task on its engine. `part` tells which: `train` or `image <id>`. */
export interface StoredRun {
  part: string;
  run: EngineHandle;
}

/** The run that goes on, and the one before it, which has ended but whose result may not be stored yet. */
export interface StoredHandle extends StoredRun {
  before?: StoredRun | null;
}

/** Takes up tasks that lost their worker, oldest first. */
export async function takeOver(sql: Sql, workerId: string, capacity: number): Promise<Leased[]> {
  if (capacity <= 0) return [];
  const rows = await sql<{ task_id: number; lease_epoch: number }[]>`
    with orphans as (
      -- The task is locked as well: its epoch is to be the one that goes with the lease, not an earlier one.
      select l.task_id, t.lease_epoch
      from leases l
      join tasks t on t.id = l.task_id
      where l.worker_id is null
      order by l.created_at
      limit ${capacity}
      for update of t, l skip locked
    )
    update leases l
    set worker_id = ${workerId}
    from orphans o
    where l.task_id = o.task_id
    returning l.task_id, o.lease_epoch
  `;
  return rows.map((row) => ({ taskId: row.task_id, epoch: row.lease_epoch }));
}

/** The lease as its holder begins to work; null when it is somebody else's by now, or the task is over. */
export async function findLease(sql: Sql, workerId: string, { taskId, epoch }: Leased): Promise<Lease | null> {
  const [row] = await sql<{ server_id: number; handle: StoredHandle | null; breaks: number }[]>`
    select coalesce(l.server_id, l.source_id) as server_id, l.handle, l.breaks
    from leases l
    join tasks t on t.id = l.task_id
    where l.task_id = ${taskId}
      and l.worker_id = ${workerId}
      and t.lease_epoch = ${epoch}
      and t.status = 'running'
  `;
  return row ? { taskId, epoch, serverId: row.server_id, handle: row.handle, breaks: row.breaks } : null;
}

/** Keeps the handle of a run before it is submitted. False when the lease is lost: then nothing may be submitted. */
export async function storeHandle(sql: Sql, lease: Lease, handle: StoredHandle): Promise<boolean> {
  // The task is locked: a join alone would not see that its epoch rose while the update waited for the lease's row.
  const stored = await sql`
    with held as materialized (
      select id from tasks where id = ${lease.taskId} and lease_epoch = ${lease.epoch} for share
    )
    update leases l
    set handle = ${sql.json(handle as never)}
    from held
    where l.task_id = held.id
  `;
  return stored.count > 0;
}

/**
 * Gives the slot to the next task: the engine has done the work. The lease stays until the results are stored. May be
 * called again, also by whoever has taken the task over. False when the lease is lost.
 */
export async function freeSlot(sql: Sql, lease: Lease): Promise<boolean> {
  const freed = await sql`
    with held as materialized (
      select id from tasks where id = ${lease.taskId} and lease_epoch = ${lease.epoch} for share
    ), freed as (
      update leases l
      set source_id = coalesce(l.source_id, l.server_id), server_id = null,
        freed_at = coalesce(l.freed_at, clock_timestamp()),
        patience = stall_limit('storing'), stall_at = now() + stall_limit('storing')
      from held
      where l.task_id = held.id
      returning l.task_id
    )
    select pg_notify('pool', '') from freed
  `;
  return freed.length > 0;
}

/** A task that a worker holds. */
export interface Held {
  epoch: number;
  /** Why it must not go on, by the database's clock; null while it may. */
  overdue: EngineError | null;
  /** See `ServerRow`. */
  address: string;
}

/** The tasks that a worker holds; what it runs beside these, it has lost. */
export async function heldBy(sql: Sql, workerId: string): Promise<Map<number, Held>> {
  const rows = await sql<
    { id: number; lease_epoch: number; address: string; is_stalled: boolean; is_late: boolean; minutes: number }[]
  >`
    select t.id, t.lease_epoch, s.address, l.stall_at <= now() as is_stalled,
      ceil(extract(epoch from l.patience) / 60)::int as minutes,
      coalesce(t.started_at + make_interval(secs => t.max_seconds) <= now(), false) as is_late
    from leases l
    join tasks t on t.id = l.task_id
    join (select id, ${address(sql)} as address from servers) s on s.id = coalesce(l.server_id, l.source_id)
    where l.worker_id = ${workerId}
  `;
  const judge = (row: (typeof rows)[number]): EngineError | null => {
    if (row.is_late) return new EngineError("deadline", "The task took longer than its max_seconds");
    if (!row.is_stalled) return null;
    return new EngineError("stalled", `The engine made no progress for ${row.minutes} minutes`);
  };
  return new Map(rows.map((row) => [row.id, { epoch: row.lease_epoch, overdue: judge(row), address: row.address }]));
}

/**
 * Moves the stall limit: to be called at progress. It does not write at every call.
 * @param silentMs for so long the engine may work without a sign of it, whatever the stage allows
 */
export async function advance(sql: Sql, lease: Lease, stage: Stage, silentMs: number): Promise<void> {
  const now = performance.now();
  const key = `${stage} ${silentMs}`;
  if (lease.advanced?.key === key && now - lease.advanced.at < advanceMs) return;
  lease.advanced = { key, at: now };
  await sql`
    update leases l
    set patience = p.patience, stall_at = now() + p.patience
    from tasks t,
      (select greatest(stall_limit(${stage}), make_interval(secs => ${silentMs / 1000})) as patience) p
    where l.task_id = ${lease.taskId}
      and t.id = l.task_id
      and t.lease_epoch = ${lease.epoch}
  `;
}

/** Gives up one lease for any worker to take over, without touching the run on the engine. */
export async function release(sql: Sql, workerId: string, { taskId, epoch }: Leased): Promise<void> {
  await sql`
    with given as (
      update tasks t
      set lease_epoch = t.lease_epoch + 1
      from leases l
      where t.id = ${taskId}
        and t.lease_epoch = ${epoch}
        and l.task_id = t.id
        and l.worker_id = ${workerId}
      returning t.id
    ), freed as (
      update leases l set worker_id = null, breaks = l.breaks + 1 from given where l.task_id = given.id
    )
    select pg_notify('pool', '') from given
  `;
}

/**
 * Takes every task from workers that are dead, for another to take over: the epoch rises, and what the old one may still
 * write changes nothing. The slot on the server stays taken, since the run there may well go on.
 */
export async function sweepLeases(sql: Sql): Promise<void> {
  await sql`
    with lost as (
      select t.id, coalesce(now() - (w.expires_at - ${workerTtl}::interval), interval '0') as unwatched
      from leases l
      join tasks t on t.id = l.task_id
      left join workers w on w.id = l.worker_id
      where l.worker_id is not null
        and coalesce(w.expires_at, '-infinity') <= now()
      order by t.id
      for update of t skip locked
    ), freed as (
      update leases l set worker_id = null, stall_at = l.stall_at + lost.unwatched from lost where l.task_id = lost.id
    ), fenced as (
      update tasks t set lease_epoch = t.lease_epoch + 1 from lost where t.id = lost.id
    )
    select pg_notify('pool', '') from lost limit 1
  `;
  await sql`delete from workers where expires_at < now() - interval '1 hour'`;
}

/**
 * Gives the queue's jobs that are locked by nobody who lives back to the queue. Not those of the last seconds: a runner
 * that has just begun is not in anybody's heartbeat yet.
 */
export async function unlockJobs(sql: Sql): Promise<void> {
  await sql`
    select graphile_worker.force_unlock_workers(array_agg(dead.locked_by))
    from (
      select distinct locked_by
      from graphile_worker.jobs
      where locked_at < now() - ${workerTtl}::interval
        and not exists (
          select from workers w where w.expires_at > now() and jobs.locked_by = any (w.locked_by)
        )
    ) dead
    having count(*) > 0
  `;
}

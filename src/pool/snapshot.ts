/** The pool at one moment: what an explanation, a position or an estimate is worked out from. Counts only. */
import type { Sql } from "../db/client.ts";

export type WorkType = "train" | "infer";

/** A user's tasks of one type, with what decides when they have their turn. */
export interface Line {
  user_id: number;
  type: WorkType;
  waiting: number;
  /** GPU-seconds that the user had lately. */
  used: number;
  /** Since when the user has had nothing, in seconds of the epoch. */
  since: number;
  running: number;
  queues: Queue[];
  /** The first of them, as many as there is patience for. */
  tasks: Head[];
}

/** Those of them that ask the same of a server. */
export interface Queue {
  user_id: number;
  need_id: number;
  type: WorkType;
  waiting: number;
  since: number;
  /** Held back for so long that it comes in by itself. */
  is_overlooked: boolean;
}

export interface Head {
  id: number;
  user_id: number;
  need_id: number;
  type: WorkType;
  priority: number;
  rank: number;
  /** In its queue, from 1. */
  queue_place: number;
}

export interface Need {
  id: number;
  type: WorkType;
  wants: { pixels?: number } & Record<string, unknown>;
  /** GPU-seconds that one such task is expected to take. */
  seconds: number;
  /** Kinds of servers that can run it. */
  profiles: number[];
}

export interface Supply {
  type: WorkType;
  /** Null: not probed yet. */
  profile_id: number | null;
  status: string;
  servers: number;
  slots: number;
  free: number;
}

/** A task that runs. */
export interface Run {
  profile_id: number | null;
  need_id: number;
  /** Seconds. */
  elapsed: number;
}

export interface Snapshot {
  isPaused: boolean;
  /** Workers that live, and how many tasks more they can attend. */
  workers: number;
  room: number;
  lines: Line[];
  needs: Map<number, Need>;
  supply: Supply[];
  runs: Run[];
}

/** Servers that dispatch gives work to. */
export function isInService({ status }: { status: string }): boolean {
  return status === "idle" || status === "ready" || status === "working";
}

/** Tasks that are looked at one by one, shared out among the users: of the others only their number counts. */
const looked = 5_000;

export async function readSnapshot(sql: Sql): Promise<Snapshot> {
  const [[pool], lines, queues, heads, needs, supply, runs] = await Promise.all([
    sql<{ is_paused: boolean; workers: number; room: number }[]>`
      select p.is_paused, w.workers, w.capacity - (select count(*) from leases) as room
      from pool p, (
        select count(*) as workers, coalesce(sum(concurrency), 0) as capacity from workers where expires_at > now()
      ) w
    `,
    sql<Omit<Line, "queues" | "tasks">[]>`
      select s.user_id, s.type, s.waiting, decayed(s.gpu_seconds, s.as_of, now()) as used,
        extract(epoch from greatest(s.since, s.served_at))::double precision as since, coalesce(r.tasks, 0) as running
      from shares s
      left join (
        select l.user_id, n.type, count(*)::int as tasks
        from leases l join needs n on n.id = l.need_id
        group by 1, 2
      ) r on r.user_id = s.user_id and r.type = s.type
      where s.waiting > 0
    `,
    sql<Queue[]>`
      select user_id, need_id, type, waiting, extract(epoch from greatest(since, served_at))::double precision as since,
        greatest(since, served_at) < now() - interval '2 hours' as is_overlooked
      from queues
      where waiting > 0
    `,
    sql<Head[]>`
      with budget as (
        select greatest(1, ${looked} / greatest(1, count(*))) as each from shares where waiting > 0
      )
      select t.*
      from shares s
      cross join lateral (
        select k.*, s.user_id, s.type
        from queues q
        cross join lateral (
          select id, need_id, priority, rank, row_number() over (order by rank, id)::int as queue_place
          from tasks
          where need_id = q.need_id
            and user_id = q.user_id
            and rank is not null
            and coalesce(start_before > now(), true)
          order by rank, id
          limit (select each from budget)
        ) k
        where q.user_id = s.user_id and q.type = s.type and q.waiting > 0
        order by k.rank, k.id
        limit (select each from budget)
      ) t
      where s.waiting > 0
    `,
    sql<Need[]>`
      select n.id, n.type, n.wants, n.seconds,
        array(
          select f.profile_id from fits f
          where f.need_id = n.id and f.profile_id in (select s.profile_id from servers s)
        ) as profiles
      from needs n
      where n.id in (select q.need_id from queues q where q.waiting > 0 union select l.need_id from leases l)
    `,
    sql<Supply[]>`select * from supply`,
    sql<Run[]>`
      select s.profile_id, l.need_id, extract(epoch from now() - l.created_at)::double precision as elapsed
      from leases l join servers s on s.id = l.server_id
    `,
  ]);
  const { is_paused: isPaused = false, workers = 0, room = 0 } = pool ?? {};
  const keyOf = ({ user_id, type }: { user_id: number; type: WorkType }) => `${user_id} ${type}`;
  const queuesOf = Map.groupBy(queues, keyOf);
  const tasksOf = Map.groupBy(heads, keyOf);
  return {
    isPaused,
    workers,
    room: Number(room),
    lines: lines.map((line) => ({
      ...line,
      queues: queuesOf.get(keyOf(line)) ?? [],
      tasks: tasksOf.get(keyOf(line)) ?? [],
    })),
    needs: new Map(needs.map((need) => [need.id, need])),
    supply,
    runs,
  };
}

/** A pool where fewer users wait is read for every request. */
const manyLines = 500;
/** Of the time, at most one part in so many goes into reading a larger one. */
const share = 10;

/** Snapshots, shared by all who ask in this process where reading one takes long. */
export function createSnapshots(root: Sql): (sql: Sql) => Promise<Snapshot> {
  let shared: Promise<Snapshot> | null = null;
  let goodUntil = 0;
  return (sql) => {
    // A transaction must not wait for another connection, which may never come free.
    if (sql !== root) return readSnapshot(sql);
    if (shared && performance.now() < goodUntil) return shared;
    const startedAt = performance.now();
    const reading = readSnapshot(root);
    reading.then(
      ({ lines }) => {
        const now = performance.now();
        goodUntil = lines.length < manyLines ? 0 : now + (now - startedAt) * share;
        shared = reading;
      },
      () => {},
    );
    return reading;
  };
}

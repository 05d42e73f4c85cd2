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
  need_id: number;
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
/** Where more users wait, no task is looked at. */
const manyLines = 500;

type LineRow = Omit<Line, "queues" | "tasks"> & {
  need_ids: number[];
  counts: number[];
  sinces: number[];
  overlooked: boolean[];
};

export async function readSnapshot(sql: Sql): Promise<Snapshot> {
  const [[pool], lines, heads, needs, supply, runs] = await Promise.all([
    sql<{ is_paused: boolean; workers: number; room: number }[]>`
      select p.is_paused, w.workers, w.capacity - (select count(*) from leases) as room
      from pool p, (
        select count(*) as workers, coalesce(sum(concurrency), 0) as capacity from workers where expires_at > now()
      ) w
    `,
    // Arrays: fifty thousand queues would be as many objects to parse.
    sql<LineRow[]>`
      select s.user_id, s.type, s.waiting, decayed(s.gpu_seconds, s.as_of, now()) as used,
        extract(epoch from greatest(s.since, s.served_at))::double precision as since, coalesce(r.tasks, 0) as running,
        q.need_ids, q.counts, q.sinces, q.overlooked
      from shares s
      join (
        select user_id, type, array_agg(need_id) as need_ids, array_agg(waiting) as counts,
          array_agg(extract(epoch from greatest(since, served_at))::double precision) as sinces,
          array_agg(greatest(since, served_at) < now() - interval '2 hours') as overlooked
        from queues
        where waiting > 0
        group by 1, 2
      ) q using (user_id, type)
      left join (
        select l.user_id, n.type, count(*)::int as tasks
        from leases l join needs n on n.id = l.need_id
        group by 1, 2
      ) r using (user_id, type)
      where s.waiting > 0
    `,
    sql<Head[]>`
      with budget as (
        select case when count(*) <= ${manyLines} then ${looked} / greatest(1, count(*)) else 0 end as each
        from shares where waiting > 0
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
      where s.waiting > 0 and (select each from budget) > 0
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
  const tasksOf = Map.groupBy(heads, keyOf);
  return {
    isPaused,
    workers,
    room: Number(room),
    lines: lines.map(({ need_ids, counts, sinces, overlooked, ...line }) => ({
      ...line,
      queues: need_ids.map((need_id, i) => ({
        need_id,
        waiting: counts[i] ?? 0,
        since: sinces[i] ?? 0,
        is_overlooked: overlooked[i] ?? false,
      })),
      tasks: tasksOf.get(keyOf(line)) ?? [],
    })),
    needs: new Map(needs.map((need) => [need.id, need])),
    supply,
    runs,
  };
}

/** Of the time, at most one part in so many goes into reading a large pool. */
const share = 10;
/** For so long after that, who asks is told what was read last while it is read again. */
const staleMs = 10_000;

/**
 * A pool of few users is read for every request. Where many wait, all who ask in this process share what was read last,
 * and one of them has it read again when its time is over.
 */
export function createSnapshots(root: Sql): (sql: Sql) => Promise<Snapshot> {
  let shared: Promise<Snapshot> | null = null;
  let reading: Promise<Snapshot> | null = null;
  let isLarge = true;
  let goodUntil = 0;

  function read(): Promise<Snapshot> {
    const startedAt = performance.now();
    const mine = readSnapshot(root);
    reading = mine;
    mine
      .then(({ lines }) => {
        const now = performance.now();
        isLarge = lines.length > manyLines;
        goodUntil = now + (now - startedAt) * share;
        shared = mine;
      })
      .catch(() => {})
      .finally(() => {
        if (reading === mine) reading = null;
      });
    return mine;
  }

  return (sql) => {
    // A transaction must not wait for another connection, which may never come free.
    if (sql !== root) return readSnapshot(sql);
    if (!isLarge) return read();
    if (shared && performance.now() < goodUntil) return shared;
    const fresh = reading ?? read();
    return shared && performance.now() < goodUntil + staleMs ? shared : fresh;
  };
}

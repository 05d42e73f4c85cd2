/** What tasks that wait or run have ahead of them: their place in the queue, and when they are expected to end. */
import type { Sql } from "../db/client.ts";
import {
  estimateRest,
  estimateStart,
  estimateWork,
  type Interval,
  readSamples,
  type Sample,
  type Work,
} from "./eta.ts";
import { findAhead, findCompetition, findRivals, type Waiter } from "./position.ts";
import { createSnapshots, type Head, type Snapshot } from "./snapshot.ts";

export interface Prospect {
  /** Tasks that go first, and itself; null unless it is in the queue. */
  queue_position: number | null;
  /** RFC 3339, to the second. */
  eta: { p50: string; p90: string } | null;
}

export interface Outlook {
  /** By task; what neither waits nor runs has none. */
  find(sql: Sql, taskIds: number[]): Promise<Map<number, Prospect>>;
  snapshot(sql: Sql): Promise<Snapshot>;
  maxRunning: number;
}

interface TaskRow extends Omit<Head, "queue_place" | "rank"> {
  status: "waiting" | "running";
  model_id: number | null;
  server_id: number | null;
  progress: number;
  elapsed: number | null;
  steps: number;
  /** Null while it may not be dispatched. */
  rank: number | null;
}

/** Speeds change slowly. */
const samplesGoodForMs = 10_000;

/** @param maxRunning as the workers have it: tasks of one type that one user may have running at once */
export function createOutlook(root: Sql, maxRunning: number): Outlook {
  const snapshot = createSnapshots(root);
  let samples: { at: number; rows: Sample[] } | null = null;

  async function currentSamples(sql: Sql): Promise<Sample[]> {
    if (!samples || performance.now() - samples.at > samplesGoodForMs) {
      samples = { at: performance.now(), rows: await readSamples(sql) };
    }
    return samples.rows;
  }

  return {
    maxRunning,
    snapshot,
    async find(sql, taskIds) {
      const rows = await readTasks(sql, taskIds);
      if (rows.length === 0) return new Map();
      const [pool, known] = await Promise.all([snapshot(sql), currentSamples(sql)]);
      const work = (row: TaskRow, serverId: number | null): Work => ({
        needId: row.need_id,
        modelId: row.model_id,
        serverId,
        steps: row.steps,
      });
      const rivalsOf = remember((needId: number) => findRivals(pool, needId));
      const waiters = await readPlaces(sql, rows, rivalsOf);
      const typical = remember((needId: number) => estimateTypical(needId, known, pool));
      // Most needs have the same rivals.
      const competitions = remember((_rivals: string, row: TaskRow) =>
        findCompetition(pool, row.type, rivalsOf(row.need_id), (id) => typical(id).p50),
      );
      return new Map(
        rows.map((row): [number, Prospect] => {
          if (row.status === "running") {
            const total = estimateWork(work(row, row.server_id), known, pool.needs);
            const rest = estimateRest(total, row.elapsed ?? 0, row.progress);
            return [row.id, { queue_position: null, eta: toTimes(rest) }];
          }
          const waiter = waiters.get(row.id);
          if (!waiter) return [row.id, { queue_position: null, eta: null }];
          const ahead = findAhead(competitions(nameOf(rivalsOf(row.need_id)), row), waiter, maxRunning);
          const start = estimateStart(pool, row.need_id, ahead, typical);
          const own = estimateWork(work(row, null), known, pool.needs);
          return [
            row.id,
            {
              queue_position: ahead.tasks + 1,
              eta: start && toTimes({ p50: start.p50 + own.p50, p90: start.p90 + own.p90 }),
            },
          ];
        }),
      );
    },
  };
}

/** What one task of a kind took lately, whatever its steps. */
function estimateTypical(needId: number, samples: Sample[], pool: Snapshot): Interval {
  const same = samples.filter((sample) => sample.need_id === needId);
  const steps = same.reduce((sum, sample) => sum + (sample.steps ?? 0), 0) / Math.max(1, same.length);
  return estimateWork({ needId, modelId: null, serverId: null, steps }, samples, pool.needs);
}

function toTimes({ p50, p90 }: Interval) {
  const now = Date.now();
  const at = (seconds: number) => new Date(Math.ceil((now + seconds * 1000) / 1000) * 1000).toISOString();
  return { p50: at(p50), p90: at(p90) };
}

function remember<K, T, A extends unknown[]>(find: (key: K, ...more: A) => T): (key: K, ...more: A) => T {
  const known = new Map<K, T>();
  return (key, ...more) => {
    const found = known.get(key) ?? find(key, ...more);
    known.set(key, found);
    return found;
  };
}

function nameOf(rivals: Set<number>): string {
  return [...rivals].toSorted((a, b) => a - b).join();
}

function readTasks(sql: Sql, taskIds: number[]): Promise<TaskRow[]> {
  return sql<TaskRow[]>`
    select id, status, type, need_id, user_id, model_id, server_id, priority, rank, progress,
      extract(epoch from now() - started_at)::double precision as elapsed,
      case type
        when 'train' then coalesce((params->>'epochs')::int, 0)
        else coalesce((params->>'num_inference_steps')::int, 0) * coalesce((params->>'count')::int, 1)
      end as steps
    from tasks
    where id = any (${taskIds}::int[])
      and status in ('waiting', 'running')
      and need_id is not null
  `;
}

/** Those of the tasks that are in line, with their places there: all of one line are counted in one pass over an index. */
export async function readPlaces<T extends { id: number; user_id: number; need_id: number; rank: number | null }>(
  sql: Sql,
  rows: T[],
  rivalsOf: (needId: number) => Set<number>,
): Promise<Map<number, T & Waiter>> {
  const waiting = rows.filter((row) => row.rank !== null);
  if (waiting.length === 0) return new Map();
  const lines = [...Map.groupBy(waiting, (row) => `${row.user_id} ${nameOf(rivalsOf(row.need_id))}`).values()].map(
    (tasks) => ({
      user_id: tasks[0]?.user_id ?? 0,
      rivals: [...rivalsOf(tasks[0]?.need_id ?? 0)],
      ids: tasks.map(({ id }) => id),
    }),
  );
  const places = await sql<{ id: number; place: number; queue_place: number }[]>`
    select p.id, p.place, p.queue_place
    from jsonb_to_recordset(${sql.json(lines)}) l (user_id int, rivals int[], ids int[])
    cross join lateral (
      select t.id, t.need_id, row_number() over (order by t.rank, t.id)::int as place,
        row_number() over (partition by t.need_id order by t.rank, t.id)::int as queue_place
      from tasks t
      where t.need_id = any (l.rivals)
        and t.user_id = l.user_id
        and t.rank <= (select max(o.rank) from tasks o where o.id = any (l.ids))
        and coalesce(t.start_before > now(), true)
    ) p
    where p.id = any (l.ids)
  `;
  const byId = new Map(waiting.map((row) => [row.id, row]));
  return new Map(places.map(({ id, ...place }) => [id, { ...(byId.get(id) as T), ...place } as T & Waiter]));
}

/** The pool in figures, for operators: what waits and why, what runs, how long things take, and who works. */
import type { Sql } from "../db/client.ts";
import type { Outlook } from "./outlook.ts";
import type { WorkType } from "./snapshot.ts";
import { explainQueue, type ReasonCode } from "./why.ts";

export interface Stats {
  paused: boolean;
  /** Those that live, and how many tasks more they can attend. */
  workers: { alive: number; room: number };
  waiting: {
    total: number;
    by_type: Record<WorkType, number>;
    by_reason: { type: WorkType; reason: ReasonCode; tasks: number }[];
  };
  running: Record<WorkType, number>;
  /** Attempts that ended in the last hour, by how. */
  throughput: Record<WorkType, Ends>;
  /** From when a task could go to when it went, of those attempts; null without any. */
  wait_seconds: Record<WorkType, { p50: number; p90: number } | null>;
  servers: ServerUse[];
  /** Messages to be sent, and those given up in the last hour. */
  webhooks: { pending: number; failed: number };
}

interface Ends {
  success: number;
  error: number;
  retry: number;
  canceled: number;
}

interface ServerUse {
  id: number;
  name: string;
  type: WorkType;
  status: string;
  slots: number;
  running: number;
  /** Runs on its engine that are not ours. */
  foreign_runs: number;
  /** Share of its slots' time in the last hour in which tasks of ours were there, from 0 to 1. */
  use: number;
}

const byType = <T>(value: (type: WorkType) => T): Record<WorkType, T> => ({
  train: value("train"),
  infer: value("infer"),
});

export async function readStats(sql: Sql, outlook: Outlook): Promise<Stats> {
  const [snapshot, apart, running, ends, servers, [webhooks]] = await Promise.all([
    outlook.snapshot(sql),
    sql<{ type: WorkType; reason: ReasonCode; tasks: number }[]>`
      select type, 'preparing' as reason, count(*)::int as tasks
      from tasks where status in ('initial', 'ready') group by 1
      union all
      select type, 'backing-off', count(*)::int
      from tasks where status = 'waiting' and not_before is not null group by 1
    `,
    sql<{ type: WorkType; tasks: number }[]>`
      select n.type, count(*)::int as tasks from leases l join needs n on n.id = l.need_id group by 1
    `,
    sql<(Ends & { type: WorkType; p50: number; p90: number })[]>`
      select n.type,
        count(*) filter (where a.outcome = 'success')::int as success,
        count(*) filter (where a.outcome = 'error')::int as error,
        count(*) filter (where a.outcome = 'retry')::int as retry,
        count(*) filter (where a.outcome = 'canceled')::int as canceled,
        percentile_cont(0.5) within group (order by a.waited_seconds) as p50,
        percentile_cont(0.9) within group (order by a.waited_seconds) as p90
      from attempts a join needs n on n.id = a.need_id
      where a.ended_at > now() - interval '1 hour'
      group by 1
    `,
    sql<ServerUse[]>`
      with span as (
        select now() - interval '1 hour' as start
      ), busy as (
        select a.server_id,
          sum(extract(epoch from coalesce(a.ended_at, now()) - greatest(a.started_at, span.start))) as seconds
        from attempts a, span
        where a.ended_at > span.start or a.ended_at is null
        group by 1
      )
      select s.id, s.name, s.type, s.status, s.slots, s.foreign_runs,
        (select count(*)::int from leases l where l.server_id = s.id) as running,
        round(least(1, coalesce(b.seconds, 0)
          / greatest(1, s.slots * extract(epoch from now() - greatest(s.created_at, span.start)))), 4)::double precision as use
      from servers s
      cross join span
      left join busy b on b.server_id = s.id
      order by s.id
    `,
    sql<{ pending: number; failed: number }[]>`
      select
        (select count(*)::int from deliveries where status = 'pending') as pending,
        (
          select count(*)::int from deliveries where settled_at > now() - interval '1 hour' and status = 'failed'
        ) as failed
    `,
  ]);
  const reasons = new Map(apart.map((row) => [`${row.type} ${row.reason}`, row]));
  for (const line of snapshot.lines) {
    for (const { need_id, waiting } of line.queues) {
      const { type } = line;
      const reason = explainQueue(snapshot, need_id, line.running, outlook.maxRunning);
      const known = reasons.get(`${type} ${reason}`) ?? { type, reason, tasks: 0 };
      reasons.set(`${type} ${reason}`, { ...known, tasks: known.tasks + waiting });
    }
  }
  const by_reason = [...reasons.values()].toSorted((a, b) => b.tasks - a.tasks);
  const waits = byType((type) =>
    by_reason.filter((row) => row.type === type).reduce((sum, { tasks }) => sum + tasks, 0),
  );
  const ended = new Map(ends.map((row) => [row.type, row]));
  return {
    paused: snapshot.isPaused,
    workers: { alive: snapshot.workers, room: Math.max(0, snapshot.room) },
    waiting: { total: waits.train + waits.infer, by_type: waits, by_reason },
    running: byType((type) => running.find((row) => row.type === type)?.tasks ?? 0),
    throughput: byType((type) => {
      const { success = 0, error = 0, retry = 0, canceled = 0 } = ended.get(type) ?? {};
      return { success, error, retry, canceled };
    }),
    wait_seconds: byType((type) => {
      const row = ended.get(type);
      return row ? { p50: row.p50, p90: row.p90 } : null;
    }),
    servers,
    webhooks: webhooks ?? { pending: 0, failed: 0 },
  };
}

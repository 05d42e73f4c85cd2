/** What must hold of tasks, leases, attempts and queues at every moment, whoever wrote last. */
import type { Sql } from "../../src/db/client.ts";

export interface TaskState {
  user: number;
  status: string;
  epoch: number;
  attempts: number;
  backing_off: boolean;
  /** Of each attempt; `open` while it runs. */
  outcomes: string[];
  lease: {
    server: number | null;
    source: number | null;
    holder: string | null;
    part: string | null;
    breaks: number;
    minutes: number;
  } | null;
}

/** From now on the database refuses a write that lets an epoch fall, or changes an end but by a retry. */
export async function guardEpochs(sql: Sql): Promise<void> {
  await sql.unsafe(`
    create function guard_epochs() returns trigger language plpgsql as $$
    begin
      if new.lease_epoch < old.lease_epoch then
        raise 'the epoch of task % fell', old.id;
      end if;
      if old.finished_at is not null and new.status <> old.status and not (new.status = 'waiting' and new.tries = 0) then
        raise 'the end of task % changed from % to %', old.id, old.status, new.status;
      end if;
      return new;
    end $$;
    create trigger guard_epochs before update on tasks for each row execute function guard_epochs();
  `);
}

/** @param slots of the largest server */
export async function findFaults(sql: Sql, slots: number): Promise<string[]> {
  const found = await sql<{ fault: string }[]>`
    with attempted as (
      select t.id, t.status, t.attempts, t.lease_epoch, count(a.id) as tried, coalesce(max(a.number), 0) as last,
        coalesce(max(a.epoch), 0) as epoch, array_agg(a.number) filter (where a.ended_at is null and a.id is not null) as open
      from tasks t left join attempts a on a.task_id = t.id
      group by t.id
    ), queued as (
      select user_id, need_id, count(*) as tasks, min(rank) as first from tasks where rank is not null group by 1, 2
    ), shared as (
      select user_id, type, count(*) as tasks from tasks where rank is not null group by 1, 2
    )
    select format('task %s and lease of %s', t.id, l.task_id) as fault
    from leases l full join (select id from tasks where status = 'running') t on t.id = l.task_id
    where t.id is null or l.task_id is null
    union all
    select format('%s leases on server %s', count(*), server_id) from leases
    where server_id is not null group by server_id having count(*) > ${slots}
    union all
    select format('attempts of %s', a) from attempted a
    where (tried, last) <> (attempts, attempts)
      or epoch > lease_epoch
      or open is distinct from case when status = 'running' then array[attempts] end
    union all
    select format('open attempt %s of no task', id) from attempts where task_id is null and ended_at is null
    union all
    select format('queue %s of %s', q, w) from queues q full join queued w using (user_id, need_id)
    where coalesce(q.waiting, 0) <> coalesce(w.tasks, 0) or (w.tasks > 0 and q.rank <> w.first)
    union all
    select format('share %s of %s', s, w) from shares s full join shared w using (user_id, type)
    where coalesce(s.waiting, 0) <> coalesce(w.tasks, 0)
    union all
    select format('share %s below queue %s', s, q) from shares s join queues q using (user_id, type)
    where q.waiting > 0 and q.priority > s.priority
    union all
    select format('place of task %s', id) from tasks
    where (rank is not null) <> (status = 'waiting' and not_before is null)
  `;
  return found.map(({ fault }) => fault);
}

/** All tasks and servers, by id. */
export async function readPool(sql: Sql) {
  const [tasks, servers] = await Promise.all([
    sql<(TaskState & { id: number })[]>`
      select t.id, t.user_id as user, t.status, t.lease_epoch as epoch, t.attempts, t.not_before is not null as backing_off,
        array(select coalesce(outcome, 'open') from attempts where task_id = t.id order by number) as outcomes,
        case when l.task_id is not null then json_build_object(
          'server', l.server_id, 'source', l.source_id, 'holder', l.worker_id, 'part', l.handle->>'part', 'breaks', l.breaks,
          'minutes', extract(epoch from l.patience)::int / 60
        ) end as lease
      from tasks t left join leases l on l.task_id = t.id
    `,
    sql<{ id: number; slots: number; status: string }[]>`select id, slots, status from servers`,
  ]);
  return {
    tasks: new Map(tasks.map(({ id, ...task }) => [id, task])),
    servers: new Map(servers.map(({ id, ...server }) => [id, server])),
  };
}

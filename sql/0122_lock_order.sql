-- Whoever ends one task locks it, its lease, its server, its queue and its owner's share, in this order. Whoever ends or
-- sets going many at once would hold one task's share and want another's server: these lock all tasks first, in order of
-- id, and call this before they write. Dispatch locks servers before tasks, but waits for no task.
create function lock_lines(of_tasks int[]) returns void language plpgsql as $$
begin
  perform from leases l where l.task_id = any (of_tasks) order by l.task_id for update;
  perform from servers s
  where s.id in (select l.server_id from leases l where l.task_id = any (of_tasks))
  order by s.id
  for no key update;
  perform from queues q
  where (q.user_id, q.need_id) in (select t.user_id, t.need_id from tasks t where t.id = any (of_tasks))
  order by q.user_id, q.need_id
  for no key update;
  perform from shares s
  where (s.user_id, s.type) in (select t.user_id, t.type from tasks t where t.id = any (of_tasks))
  order by s.user_id, s.type
  for no key update;
end $$;

-- As in 0032, but it takes the rounds' lock itself, or it would wait for that of a round with queues in its hands which
-- that round wants. Whoever finds none due waits for no round.
create or replace function end_back_offs() returns void language plpgsql as $$
declare
  due int[];
begin
  if not exists (select from tasks where status = 'waiting' and not_before <= now()) then
    return;
  end if;
  perform pg_advisory_xact_lock(7264301);
  due := array(
    select id from tasks
    where status = 'waiting' and not_before <= now()
    order by id
    for update skip locked
  );
  perform lock_lines(due);
  update tasks t set not_before = null where t.id = any (due);
end $$;

-- As in 0099.
create or replace function expire_tasks() returns int language plpgsql as $$
declare
  late int[] := array(
    select id from tasks
    where start_before <= now()
      and status in ('initial', 'ready', 'waiting')
    order by id
    for update skip locked
  );
begin
  perform lock_lines(late);
  update tasks t
  set status = 'error', finished_at = now(),
    error = jsonb_build_object('class', 'deadline', 'detail', 'The task had not begun by the time that it was to start before')
  where t.id = any (late);
  return cardinality(late);
end $$;

-- As in 0031, but all leases and queues are locked before any share; and a run that the engine has done costs no more.
create or replace function charge_running() returns void language plpgsql as $$
declare
  running int[];
  busy record;
begin
  if not pg_try_advisory_xact_lock(7264303) then
    return;
  end if;
  running := array(
    select l.task_id
    from leases l
    join needs n on n.id = l.need_id
    join shares s on s.user_id = l.user_id and s.type = n.type
    where s.served_at < now() - interval '10 seconds'
  );
  perform from leases l where l.task_id = any (running) order by l.task_id for update;
  perform from queues q
  where (q.user_id, q.need_id) in (select l.user_id, l.need_id from leases l where l.task_id = any (running))
  order by q.user_id, q.need_id
  for no key update;
  for busy in
    select l.user_id, n.type,
      sum(greatest(0, extract(epoch from coalesce(l.freed_at, now()) - l.created_at) - l.charged)) as overdue
    from leases l
    join needs n on n.id = l.need_id
    where l.task_id = any (running)
    group by 1, 2
    order by 1, 2
  loop
    perform charge(busy.user_id, busy.type, busy.overdue);
  end loop;
  update leases l
  set charged = greatest(l.charged, extract(epoch from coalesce(l.freed_at, now()) - l.created_at))
  where l.task_id = any (running);
  update queues q set served_at = now()
  where (q.user_id, q.need_id) in (select l.user_id, l.need_id from leases l where l.task_id = any (running));
end $$;

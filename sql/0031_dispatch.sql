-- Dispatch: which waiting task goes to which free slot. See src/pool/dispatch.ts for when.

create table pool (
  id        boolean primary key default true,
  is_paused boolean not null default false,
  paused_at timestamptz,
  constraint pool_single check (id),
  constraint pool_paused_since check (is_paused = (paused_at is not null))
);
comment on table pool is 'One row: the state of the whole pool. While it is paused nothing is dispatched; what runs goes on.';
insert into pool default values;

create table placements (
  server_id int not null references servers on delete cascade,
  hash      text not null,
  bytes     bigint not null,
  used_at   timestamptz not null default now(),
  primary key (server_id, hash)
);
comment on table placements is 'Which server holds which of our model files, by the sha256 of the content.';
create index placements_by_hash on placements (hash);

create table attempts (
  id               bigint generated always as identity primary key,
  task_id          int references tasks on delete set null,
  number           int not null,
  epoch            bigint not null,
  server_id        int references servers on delete set null,
  need_id          int not null references needs,
  user_id          int references users on delete set null,
  model_id         int,
  waited_seconds   double precision not null,
  started_at       timestamptz not null default now(),
  ended_at         timestamptz,
  outcome          text,
  error_class      text,
  gpu_seconds      double precision,
  steps            int,
  steps_per_second double precision,
  constraint attempts_number_unique unique (task_id, number),
  constraint attempts_outcome_known check (outcome in ('success', 'error', 'retry', 'canceled')),
  constraint attempts_outcome_when_ended check ((ended_at is null) = (outcome is null))
);
comment on table attempts is 'Every run of every task on a server: what speed, waits and use are measured from. Kept for thirty days.';
comment on column attempts.epoch is 'The lease''s when it began; a hand-over to another worker raises it within the same attempt.';
comment on column attempts.waited_seconds is 'From when the task could be dispatched to when it was.';
comment on column attempts.outcome is 'retry: it failed, and the task went back into its queue.';
comment on column attempts.steps_per_second is 'While the engine was at the steps themselves, loading and saving apart.';
create index attempts_by_server on attempts (server_id, started_at);
create index attempts_by_need on attempts (need_id, ended_at) where outcome = 'success';
create index attempts_by_end on attempts (ended_at);

alter table servers add foreign_runs int not null default 0;
comment on column servers.foreign_runs is 'Runs on the engine that are not ours, at the last probe: their slots are not free.';

-- A server that can take work, or more of it, wakes the workers.
create function announce_room() returns trigger language plpgsql as $$
begin
  perform pg_notify('pool', '');
  return null;
end $$;
create trigger d_room after update on servers for each row
  when (new.status in ('idle', 'ready', 'working') and (old.status in ('initial', 'error', 'closing')
    or new.slots > old.slots or new.foreign_runs < old.foreign_runs or new.profile_id is distinct from old.profile_id))
  execute function announce_room();

alter table leases
  drop claim_by,
  add user_id int references users on delete cascade,
  add need_id int references needs,
  add charged double precision not null default 0;
comment on column leases.charged is 'GPU-seconds that its owner''s share has been charged with so far.';
update leases l set user_id = t.user_id, need_id = t.need_id from tasks t where t.id = l.task_id;
alter table leases alter user_id set not null, alter need_id set not null;
comment on column leases.worker_id is 'Who runs it; null until a worker takes it up.';

-- A server works while a task holds one of its slots. Its row is locked first, so that of two tasks that begin and end
-- at the same time each sees the other.
create or replace function show_work() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    update servers set status = 'working' where id = new.server_id and status in ('idle', 'ready');
    return null;
  end if;
  perform from servers where id = old.server_id for no key update;
  if not exists (select from leases where server_id = old.server_id) then
    update servers set status = 'ready' where id = old.server_id and status = 'working';
  end if;
  return null;
end $$;

-- Frees the slot of a task and writes down how its attempt ended. Does nothing for a task that holds none.
create function end_attempt(of_task int, ended text, with_class text default null, of_steps int default null, at_speed double precision default null)
returns leases language plpgsql as $$
declare
  held leases;
  used double precision;
begin
  delete from leases where task_id = of_task returning * into held;
  if held.task_id is null then
    return null;
  end if;
  used := extract(epoch from clock_timestamp() - held.created_at);
  update attempts a
  set ended_at = clock_timestamp(), outcome = ended, error_class = with_class, gpu_seconds = used,
    steps = of_steps, steps_per_second = at_speed
  from tasks t
  where t.id = of_task
    and a.task_id = of_task
    and a.number = t.attempts
    and a.ended_at is null;
  update queues set served_at = now() where need_id = held.need_id and user_id = held.user_id;
  perform charge(held.user_id, n.type, used - held.charged) from needs n where n.id = held.need_id;
  if ended = 'success' then
    update servers set run_failures = 0 where id = held.server_id and run_failures > 0;
  end if;
  perform pg_notify('pool', '');
  return held;
end $$;

create or replace function release_task() returns trigger language plpgsql as $$
declare
  held leases := end_attempt(old.id, 'canceled');
begin
  if held.handle is not null then
    perform graphile_worker.add_job(
      'cancel-run',
      json_build_object('server_id', held.server_id, 'handle', held.handle),
      max_attempts := 12
    );
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;

-- Users whose tasks run are being served, and a run that takes longer than expected is charged as it goes. Called every
-- few seconds by each worker; of calls close together one does the work.
create function charge_running() returns void language plpgsql as $$
declare
  busy record;
begin
  if not pg_try_advisory_xact_lock(7264303) then
    return;
  end if;
  for busy in
    select l.user_id, n.type, array_agg(distinct l.need_id) as needs,
      sum(greatest(0, extract(epoch from now() - l.created_at) - l.charged)) as overdue
    from leases l
    join needs n on n.id = l.need_id
    join shares s on s.user_id = l.user_id and s.type = n.type
    where s.served_at < now() - interval '10 seconds'
    group by 1, 2
    order by 1, 2
  loop
    update leases l
    set charged = greatest(l.charged, extract(epoch from now() - l.created_at))
    where l.user_id = busy.user_id and l.need_id = any (busy.needs);
    update queues q set served_at = now() where q.user_id = busy.user_id and q.need_id = any (busy.needs);
    perform charge(busy.user_id, busy.type, busy.overdue);
  end loop;
end $$;

-- Takes leased tasks out of their queues, and charges their owners with what they are expected to take. In the order in
-- which everybody locks these rows.
create function leave_queues(of_tasks int[]) returns void language plpgsql as $$
declare
  left_queue record;
  left_share record;
begin
  for left_queue in
    select l.user_id, l.need_id, count(*)::int as tasks from leases l
    where l.task_id = any (of_tasks) group by 1, 2 order by 1, 2
  loop
    perform from queues q where q.user_id = left_queue.user_id and q.need_id = left_queue.need_id for no key update;
    update queues q
    set waiting = q.waiting - left_queue.tasks,
      served_at = now(),
      rank = coalesce(head.rank, q.rank),
      priority = coalesce(head.priority, q.priority),
      since = coalesce(head.waiting_at, q.since)
    from find_head(left_queue.user_id, left_queue.need_id) head
    where q.user_id = left_queue.user_id and q.need_id = left_queue.need_id;
  end loop;
  for left_share in
    select l.user_id, n.type, count(*)::int as tasks, sum(l.charged) as seconds
    from leases l join needs n on n.id = l.need_id
    where l.task_id = any (of_tasks) group by 1, 2 order by 1, 2
  loop
    perform from shares s where s.user_id = left_share.user_id and s.type = left_share.type for no key update;
    update shares s
    set waiting = s.waiting - left_share.tasks,
      priority = highest_priority(s.user_id, s.type),
      gpu_seconds = decayed(s.gpu_seconds, s.as_of, now()) + left_share.seconds,
      as_of = now(),
      served_at = now()
    where s.user_id = left_share.user_id and s.type = left_share.type;
  end loop;
end $$;

-- Gives waiting tasks to free slots, and leases them to one worker.
--
-- Whose turn it is: users who have had nothing for longest by the ten minutes of the clock, a point of priority counting
-- as ten minutes; among those the ones who had the fewest GPU-seconds lately, each further task of the same round
-- counted as taken. A user whose tasks run gains nothing by the number of those that wait, and one who gets nothing
-- comes before any newer one, so nothing starves; a single kind of task that its owner's other work would hold back for
-- hours comes in by itself. Among a user's own tasks: the lowest rank.
--
-- A task goes to a server that holds its model's file, or what a training has saved so far. Where all that hold it are busy it waits for them, but no longer
-- than `patience`; then any server will do, which gets the file first.
--
-- Rounds exclude each other. Rows are locked in the order server, task (skipping what others hold), queue, share.
create function dispatch(to_worker text, capacity int, max_running int, patience interval default '15 seconds')
returns table (task_id int, epoch bigint) language plpgsql as $$
declare
  slot_servers int[];
  kinds int[];
  starts int[];
  firsts int[];
  lasts int[];
  taken boolean[];
  of_type text;
  free int;
  size int;
  looked int;
  seen int;
  item record;
  kind int;
  position int;
  candidate int;
  holder int;
  chosen int;
  users int[];
  tasks_of_type int[];
  servers_of_type int[];
  picked_tasks int[] := '{}';
  picked_servers int[] := '{}';
  claimed int[];
begin
  if exists (select from tasks t where t.status = 'waiting' and t.not_before <= now()) then
    perform end_back_offs();
  end if;
  if capacity <= 0 or not exists (select from shares s where s.waiting > 0) then
    return;
  end if;
  perform pg_advisory_xact_lock(7264301);
  if (select is_paused from pool) then
    return;
  end if;

  foreach of_type in array array['infer', 'train'] loop
    -- One place in these arrays for each free slot, those of one profile together.
    with busy as (
      select l.server_id, count(*)::int as leases from leases l group by 1
    ), free as (
      select s.id, s.profile_id, s.slots - s.foreign_runs - coalesce(b.leases, 0) as slots,
        coalesce(b.leases, 0) as leases
      from servers s
      left join busy b on b.server_id = s.id
      where s.status in ('idle', 'ready', 'working')
        and s.type = of_type
        and s.profile_id is not null
    ), slots as (
      select f.id, f.profile_id, row_number() over (order by f.profile_id, f.leases + n, f.id)::int as place
      from free f cross join generate_series(1, f.slots) n
    ), spans as (
      select profile_id, min(place) as first, max(place) as last from slots group by 1
    )
    select
      (select array_agg(id order by place) from slots),
      array_agg(profile_id order by first), array_agg(first order by first), array_agg(last order by first)
    into slot_servers, kinds, starts, lasts
    from spans;
    free := coalesce(cardinality(slot_servers), 0);
    size := least(capacity - cardinality(picked_tasks), free);
    continue when size = 0;
    -- Tasks that wait for a certain server take no slot, so a few more are looked at than can go; and more again when
    -- those who come first want other kinds of servers.
    looked := size + 8;

    loop
      taken := array_fill(false, array[free]);
      firsts := starts;
      users := '{}';
      tasks_of_type := '{}';
      servers_of_type := '{}';
      seen := 0;
      for item in
        with offered as materialized (
          -- The most special servers first, so that the others stay free for what only they can do.
          select f.need_id, array_agg(f.profile_id order by f.breadth, f.profile_id) as profiles
          from (
            select need_id, profile_id, count(*) over (partition by profile_id) as breadth
            from fits
            where profile_id = any (kinds)
          ) f
          group by 1
        ), running as materialized (
          select l.user_id, count(*)::int as tasks
          from leases l join needs n on n.id = l.need_id
          where n.type = of_type
          group by 1
        ), waiting as materialized (
          select s.user_id, null::int as need_id, s.since, s.served_at, decayed(s.gpu_seconds, s.as_of, now()) as used
          from shares s
          where s.type = of_type and s.waiting > 0
          order by s.turn, s.used
          limit looked
        ), overlooked as materialized (
          select q.user_id, q.need_id, q.since, q.served_at, 0::double precision as used
          from queues q
          where q.type = of_type
            and q.waiting > 0
            and greatest(q.since, q.served_at) < now() - interval '2 hours'
          order by greatest(q.since, q.served_at)
          limit looked
        ), peers as (
          select count(*) as count from waiting
        ), found as (
          select w.user_id, w.used + (t.place - 1) * n.seconds as cost, turn_of(w.since, w.served_at, t.priority) as turn,
            t.id, t.need_id, t.model_id, t.avoid, t.waiting_at, t.rank
          from (select * from waiting union all select * from overlooked) w
          cross join lateral (
            select a.*, row_number() over (order by a.rank, a.id) as place
            from queues q
            cross join lateral (
              select k.id, k.need_id, k.model_id, k.avoid, k.waiting_at, k.rank, k.priority
              from tasks k
              where k.need_id = q.need_id
                and k.user_id = q.user_id
                and k.rank is not null
                and coalesce(k.start_before > now(), true)
              order by k.rank, k.id
              limit least(size, ceil(2.0 * size / (select count from peers))) + 3
            ) a
            where q.user_id = w.user_id
              and q.type = of_type
              and q.waiting > 0
              and coalesce(q.need_id = w.need_id, true)
              and q.need_id in (select need_id from offered)
            order by a.rank, a.id
            limit least(size, ceil(2.0 * size / (select count from peers))) + 3
          ) t
          join needs n on n.id = t.need_id
        )
        select f.id, f.user_id, o.profiles, f.avoid, max_running - coalesce(r.tasks, 0) as room, h.holders,
          now() - f.waiting_at >= patience as is_impatient, (select count from peers) as seen,
          f.avoid <> '{}' and not exists (
            select from fits j join servers s on s.profile_id = j.profile_id
            where j.need_id = f.need_id and s.status in ('idle', 'ready', 'working') and s.id <> all (f.avoid)
          ) as is_stuck
        from found f
        join offered o on o.need_id = f.need_id
        left join running r on r.user_id = f.user_id
        left join models m on m.id = f.model_id
        left join lateral (
          -- Servers that hold the model's file, or the states that a training has saved so far.
          select array_agg(p.server_id order by p.used_at desc) as holders
          from (
            select h.server_id, h.used_at from placements h where of_type = 'infer' and h.hash = m.hash
            union all
            select u.server_id, now() from training_runs u where of_type = 'train' and u.task_id = f.id
          ) p
          join servers s on s.id = p.server_id
          join fits j on j.profile_id = s.profile_id and j.need_id = f.need_id
          where s.status in ('idle', 'ready', 'working')
            and s.id <> all (f.avoid)
        ) h on true
        order by f.turn, f.cost, f.rank, f.id
      loop
        seen := item.seen;
        continue when cardinality(array_positions(users, item.user_id)) >= item.room or item.id = any (tasks_of_type);
        chosen := null;
        foreach holder in array coalesce(item.holders, '{}') loop
          foreach position in array array_positions(slot_servers, holder) loop
            if not taken[position] then
              chosen := position;
              exit;
            end if;
          end loop;
          exit when chosen is not null;
        end loop;
        continue when chosen is null and item.holders is not null and not item.is_impatient;
        if chosen is null then
          foreach kind in array item.profiles loop
            position := array_position(kinds, kind);
            while firsts[position] <= lasts[position] and taken[firsts[position]] loop
              firsts[position] := firsts[position] + 1;
            end loop;
            for candidate in firsts[position]..lasts[position] loop
              if not taken[candidate] and (item.is_stuck or slot_servers[candidate] <> all (item.avoid)) then
                chosen := candidate;
                exit;
              end if;
            end loop;
            exit when chosen is not null;
          end loop;
        end if;
        continue when chosen is null;
        taken[chosen] := true;
        users := users || item.user_id;
        tasks_of_type := tasks_of_type || item.id;
        servers_of_type := servers_of_type || slot_servers[chosen];
        exit when cardinality(tasks_of_type) = size;
      end loop;
      if seen = 0 then
        -- Nobody among those looked at wants what is free.
        select count(*) into seen from (select from shares s where s.type = of_type and s.waiting > 0 limit looked) w;
      end if;
      exit when cardinality(tasks_of_type) = size or seen < looked;
      looked := looked * 8;
    end loop;
    picked_tasks := picked_tasks || tasks_of_type;
    picked_servers := picked_servers || servers_of_type;
  end loop;
  if picked_tasks = '{}' then
    return;
  end if;

  perform from servers s where s.id = any (picked_servers) order by s.id for no key update;
  claimed := array(
    select t.id from tasks t
    where t.id = any (picked_tasks)
      and t.rank is not null
    order by t.id
    for update skip locked
  );

  return query
  with chosen as (
    select p.task_id, p.server_id, t.waiting_at, n.seconds
    from unnest(picked_tasks, picked_servers) p (task_id, server_id)
    join tasks t on t.id = p.task_id
    join needs n on n.id = t.need_id
    where p.task_id = any (claimed)
  ), started as (
    update tasks t
    set status = 'running', stage = 'loading', progress = 0, server_id = c.server_id,
      attempts = t.attempts + 1, tries = t.tries + 1, lease_epoch = t.lease_epoch + 1, started_at = now()
    from chosen c
    where t.id = c.task_id
    returning t.id, t.lease_epoch, t.server_id, t.user_id, t.need_id, t.model_id, t.attempts, c.waiting_at, c.seconds
  ), leased as (
    insert into leases (task_id, server_id, worker_id, user_id, need_id, charged)
    select s.id, s.server_id, to_worker, s.user_id, s.need_id, s.seconds from started s
  ), noted as (
    insert into attempts (task_id, number, epoch, server_id, need_id, user_id, model_id, waited_seconds)
    select s.id, s.attempts, s.lease_epoch, s.server_id, s.need_id, s.user_id, s.model_id,
      extract(epoch from now() - s.waiting_at)
    from started s
  )
  select s.id, s.lease_epoch from started s;

  perform leave_queues(claimed);
end $$;

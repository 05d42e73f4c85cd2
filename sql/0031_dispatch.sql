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

create table shares (
  user_id     int not null references users on delete cascade,
  type        text not null,
  gpu_seconds double precision not null,
  as_of       timestamptz not null,
  primary key (user_id, type)
);
comment on table shares is 'GPU-seconds that a user had lately: what was used an hour before as_of counts half.';

create function decayed(gpu_seconds double precision, as_of timestamptz, at timestamptz) returns double precision
language sql immutable parallel safe as $$
  select gpu_seconds * exp(-ln(2) / 3600 * greatest(0, extract(epoch from at - as_of)::double precision))
$$;

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
  add need_id int references needs;
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
  kind text;
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
  update queues set served_at = clock_timestamp() where need_id = held.need_id and user_id = held.user_id;
  select type into kind from needs where id = held.need_id;
  -- Nothing is charged to a user who is being deleted.
  insert into shares as s (user_id, type, gpu_seconds, as_of)
  select u.id, kind, used, now() from users u where u.id = held.user_id
  on conflict (user_id, type) do update
  set gpu_seconds = decayed(s.gpu_seconds, s.as_of, excluded.as_of) + excluded.gpu_seconds, as_of = excluded.as_of;
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

-- Gives waiting tasks to free slots, and leases them to one worker.
--
-- Order: the level of a queue (its first task's priority, one more for every ten minutes that nothing of it ran), then
-- the GPU-seconds its owner had lately and is having, each further task of the same round counted as taken; then age.
-- A queue that is served stays on its level, so a user with a thousand waiting tasks gains nothing by their number, and
-- a queue that is not served rises above any newer one: nothing starves.
--
-- A task goes to a server that holds its model's file. Where all that hold it are busy it waits for them, but no longer
-- than `patience`; then any server will do, which gets the file first.
--
-- Rounds exclude each other. Rows are locked in the order server, task (skipping what others hold), queue.
create function dispatch(to_worker text, capacity int, max_running int, patience interval default '15 seconds')
returns table (task_id int, epoch bigint) language plpgsql as $$
declare
  slot_servers int[];
  kinds int[];
  firsts int[];
  lasts int[];
  taken boolean[];
  size int;
  item record;
  kind int;
  position int;
  candidate int;
  holder int;
  chosen int;
  picked_tasks int[] := '{}';
  picked_users int[] := '{}';
  picked_servers int[] := '{}';
  claimed int[];
begin
  if capacity <= 0 or not exists (select from queues where waiting > 0) then
    return;
  end if;
  perform pg_advisory_xact_lock(7264301);
  if (select is_paused from pool) then
    return;
  end if;

  -- One place in these arrays for each free slot, those of one profile together.
  with busy as (
    select l.server_id, count(*)::int as leases from leases l group by 1
  ), free as (
    select s.id, s.profile_id, s.slots - s.foreign_runs - coalesce(b.leases, 0) as slots, coalesce(b.leases, 0) as leases
    from servers s
    left join busy b on b.server_id = s.id
    where s.status in ('idle', 'ready', 'working')
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
  into slot_servers, kinds, firsts, lasts
  from spans;
  size := least(capacity, coalesce(cardinality(slot_servers), 0));
  if size = 0 then
    return;
  end if;
  taken := array_fill(false, array[cardinality(slot_servers)]);

  for item in
    with running as materialized (
      select l.user_id, n.type, count(*)::int as tasks,
        sum(greatest(extract(epoch from now() - l.created_at), n.seconds)) as seconds
      from leases l join needs n on n.id = l.need_id
      group by 1, 2
    ), serving as materialized (
      select distinct l.need_id, l.user_id from leases l
    ), wanted as materialized (
      select distinct q.need_id from queues q where q.waiting > 0
    ), fits as materialized (
      select n.id as need_id, n.type, n.seconds, p.id as profile_id
      from wanted w
      join needs n on n.id = w.need_id
      join profiles p on p.type = n.type
      where p.id = any (kinds)
        and missing(p.offers, n.wants) = '{}'
    ), breadth as (
      select f.profile_id, count(*) as needs from fits f group by 1
    ), offered as materialized (
      -- The most special servers first, so that the others stay free for what only they can do.
      select f.need_id, f.type, f.seconds, array_agg(f.profile_id order by b.needs, f.profile_id) as profiles
      from fits f join breadth b using (profile_id)
      group by 1, 2, 3
    ), queue as materialized (
      select q.need_id, q.user_id, q.waiting, q.rank, o.profiles, o.seconds,
        q.priority + case when v.user_id is null
          then floor(extract(epoch from now() - greatest(q.since, q.served_at)) / 600) else 0 end as level,
        coalesce(decayed(s.gpu_seconds, s.as_of, now()), 0) + coalesce(r.seconds, 0) as used,
        max_running - coalesce(r.tasks, 0) as room
      from queues q
      join offered o on o.need_id = q.need_id
      left join running r on r.user_id = q.user_id and r.type = o.type
      left join serving v on v.need_id = q.need_id and v.user_id = q.user_id
      left join shares s on s.user_id = q.user_id and s.type = o.type
      where q.waiting > 0
        and coalesce(r.tasks, 0) < max_running
    ), ranked as (
      -- No profile is reached by a queue that has as many before it as there are slots in all; some more, since tasks
      -- that wait for a certain server take no slot.
      select q.*, p.id as profile_id,
        row_number() over (partition by p.id order by q.level desc, q.used, q.rank, q.user_id, q.need_id) as place,
        count(*) over (partition by p.id, q.level) as peers
      from queue q cross join unnest(q.profiles) p (id)
    ), kept as (
      select r.need_id, r.user_id, r.profiles, r.seconds, r.level, r.used, r.room, min(r.peers) as peers
      from ranked r
      where r.place <= size + 32
      group by 1, 2, 3, 4, 5, 6, 7
    ), spread as (
      select k.*, t.id, t.model_id, t.avoid, t.waiting_at, t.rank, k.used + (t.place - 1) * k.seconds as cost
      from kept k
      cross join lateral (
        select a.id, a.model_id, a.avoid, a.waiting_at, a.rank, row_number() over (order by a.rank, a.id) as place
        from tasks a
        where a.need_id = k.need_id
          and a.user_id = k.user_id
          and a.rank is not null
          and coalesce(a.start_before > now(), true)
        order by a.rank, a.id
        limit least(size + 8, k.room + 8, greatest(8, ceil(2.0 * size / k.peers)))
      ) t
    )
    select a.id, a.user_id, a.room, a.profiles, a.avoid, a.need_id, now() - a.waiting_at >= patience as is_impatient, h.holders,
      a.avoid <> '{}' and not exists (
        select from judge_servers(a.need_id) j
        where j.lacks = '{}' and j.status in ('idle', 'ready', 'working') and j.server_id <> all (a.avoid)
      ) as is_stuck
    from spread a
    left join models m on m.id = a.model_id
    left join lateral (
      select array_agg(p.server_id order by p.used_at desc) as holders
      from placements p
      join servers s on s.id = p.server_id
      where p.hash = m.hash
        and s.status in ('idle', 'ready', 'working')
        and s.id <> all (a.avoid)
        and exists (
          select from profiles f join needs n on n.id = a.need_id
          where f.id = s.profile_id and f.type = n.type and missing(f.offers, n.wants) = '{}'
        )
    ) h on true
    order by a.level desc, a.cost, a.rank, a.id
  loop
    continue when cardinality(array_positions(picked_users, item.user_id)) >= item.room;
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
    picked_tasks := picked_tasks || item.id;
    picked_users := picked_users || item.user_id;
    picked_servers := picked_servers || slot_servers[chosen];
    exit when cardinality(picked_tasks) = size;
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
  perform from queues q
  where (q.need_id, q.user_id) in (select t.need_id, t.user_id from tasks t where t.id = any (claimed))
  order by q.need_id, q.user_id
  for update;

  return query
  with chosen as (
    select p.task_id, p.server_id, t.waiting_at
    from unnest(picked_tasks, picked_servers) p (task_id, server_id)
    join tasks t on t.id = p.task_id
    where p.task_id = any (claimed)
  ), started as (
    update tasks t
    set status = 'running', stage = 'loading', progress = 0, server_id = c.server_id,
      attempts = t.attempts + 1, lease_epoch = t.lease_epoch + 1, started_at = now()
    from chosen c
    where t.id = c.task_id
    returning t.id, t.lease_epoch, t.server_id, t.user_id, t.need_id, t.model_id, t.attempts, c.waiting_at
  ), leased as (
    insert into leases (task_id, server_id, worker_id, user_id, need_id)
    select s.id, s.server_id, to_worker, s.user_id, s.need_id from started s
  ), noted as (
    insert into attempts (task_id, number, epoch, server_id, need_id, user_id, model_id, waited_seconds)
    select s.id, s.attempts, s.lease_epoch, s.server_id, s.need_id, s.user_id, s.model_id,
      extract(epoch from now() - s.waiting_at)
    from started s
  )
  select s.id, s.lease_epoch from started s;
end $$;

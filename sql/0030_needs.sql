-- What tasks need and what servers offer, each kept once however many share it, and the one rule that compares them:
-- dispatch, the refusal of a POST and the explanation of a wait all ask missing().

create table needs (
  id      int generated always as identity primary key,
  type    text not null,
  wants   jsonb not null,
  seconds real not null,
  constraint needs_unique unique (type, wants)
);
comment on table needs is 'What a task asks of a server; tasks that ask the same share a row. Never changed but for seconds.';
comment on column needs.wants is
  '{base_model, model_type (to train, or to apply), scheduler, pixels, model_megabytes}; what does not matter is left out.';
comment on column needs.seconds is 'GPU-seconds that one task is expected to take: a guess at first, then measured.';

create table profiles (
  id     int generated always as identity primary key,
  type   text not null,
  offers jsonb not null,
  constraint profiles_unique unique (type, offers)
);
comment on table profiles is 'What a probed server can do; servers that can do the same share a row. Never changed.';
comment on column profiles.offers is
  '{bases, infer, apply, train, schedulers, max_pixels, max_upload_megabytes}; a limit that is not known is null.';

-- What a server of the right type lacks for a task, by the name of what the task wants; empty when it can run it.
create function missing(offers jsonb, wants jsonb) returns text[] language sql immutable parallel safe as $$
  select array_remove(array[
    case when not offers->'bases' ? (wants->>'base_model') then 'base_model' end,
    case when wants->>'model_type' is not null and not offers->'models' ? (wants->>'model_type') then 'model_type' end,
    case when wants->>'scheduler' is not null and not offers->'schedulers' ? (wants->>'scheduler') then 'scheduler' end,
    case when (wants->>'pixels')::int > (offers->>'max_pixels')::int then 'pixels' end,
    case when (wants->>'model_megabytes')::int > (offers->>'max_upload_megabytes')::int then 'model_megabytes' end
  ], null)
$$;

create table fits (
  need_id    int not null references needs,
  profile_id int not null references profiles,
  primary key (profile_id, need_id)
);
comment on table fits is 'Which profiles lack nothing for which needs. Both never change, so neither does this.';
create index fits_by_need on fits (need_id);

-- A need and a profile that are new at the same moment must see each other: additions, which are rare, exclude each other.
create function add_need(of_type text, wanted jsonb) returns void language sql as $$
  select pg_advisory_xact_lock(7264300);
  with added as (
    insert into needs (type, wants, seconds)
    values (of_type, wanted, case of_type when 'train' then 900 else 15 end)
    on conflict do nothing
    returning id
  )
  insert into fits (need_id, profile_id)
  select a.id, p.id from added a, profiles p where p.type = of_type and missing(p.offers, wanted) = '{}'
$$;
create function add_profile(of_type text, offered jsonb) returns void language sql as $$
  select pg_advisory_xact_lock(7264300);
  with added as (
    insert into profiles (type, offers) values (of_type, offered) on conflict do nothing returning id
  )
  insert into fits (need_id, profile_id)
  select n.id, a.id from added a, needs n where n.type = of_type and missing(offered, n.wants) = '{}'
$$;

-- Null until the server has been probed: what it can do is not known then.
create function find_profile(server servers) returns int language plpgsql as $$
declare
  can jsonb := server.facts->'capabilities';
  offered jsonb;
  found int;
begin
  if can is null then
    return null;
  end if;
  offered := jsonb_build_object(
    'bases', (select coalesce(jsonb_agg(base order by base), '[]') from jsonb_object_keys(server.checkpoints) base),
    'models', coalesce(case server.type when 'train' then can->'train' else can->'apply' end, '[]'),
    -- A server that draws nothing has no scheduler to draw with.
    'schedulers', case when server.type = 'infer' and can->'infer' = 'true' then can->'schedulers' else '[]' end,
    'max_pixels', (can->>'maxPixels')::bigint,
    'max_upload_megabytes', (can->>'maxUploadBytes')::bigint / 1000000
  );
  loop
    select id into found from profiles where type = server.type and offers = offered;
    exit when found is not null;
    perform add_profile(server.type, offered);
  end loop;
  return found;
end $$;

alter table servers add profile_id int references profiles;
comment on column servers.profile_id is 'What it can do, from its type, facts and checkpoints; null until it has been probed.';
create function set_profile() returns trigger language plpgsql as $$
begin
  new.profile_id := find_profile(new);
  return new;
end $$;
create trigger c_profile_insert before insert on servers for each row execute function set_profile();
create trigger c_profile_update before update of type, facts, checkpoints on servers
  for each row when (old.type <> new.type or old.checkpoints <> new.checkpoints
    or old.facts->'capabilities' is distinct from new.facts->'capabilities')
  execute function set_profile();

create function find_need(task tasks) returns int language plpgsql as $$
declare
  model record;
  wanted jsonb;
  found int;
begin
  select m.type, ceil(f.size / 1000000.0)::int as megabytes into model
  from models m left join files f on f.key = m.model_path
  where m.id = task.model_id;
  wanted := jsonb_strip_nulls(jsonb_build_object(
    'base_model', task.base_model,
    'model_type', case task.type when 'infer' then model.type else task.params->>'type' end,
    'scheduler', case task.type when 'infer' then task.params->'scheduler' end,
    'pixels', case task.type
      when 'infer' then (task.params->>'width')::int * (task.params->>'height')::int
      else (task.params->>'resolution')::int ^ 2
    end,
    'model_megabytes', case task.type when 'infer' then model.megabytes end
  ));
  loop
    select id into found from needs where type = task.type and wants = wanted;
    exit when found is not null;
    perform add_need(task.type, wanted);
  end loop;
  return found;
end $$;

-- The servers of a task's type and what each lacks for it; `lacks` is null for one that has not been probed.
create function judge_servers(need int)
returns table (server_id int, status text, lacks text[]) language sql stable as $$
  select s.id, s.status, case when p.id is not null then missing(p.offers, n.wants) end
  from needs n
  join servers s on s.type = n.type
  left join profiles p on p.id = s.profile_id
  where n.id = need
$$;

-- What stands in a task's way for good: nothing while a server may run it, now or once it has been probed, and nothing
-- while there is no server of its type at all. Otherwise what the server that comes closest lacks. Volatile, so that it
-- sees a need that find_need() has just added in the same statement.
create function find_obstacles(need int) returns text[] language sql volatile as $$
  select coalesce((
    select missing(p.offers, n.wants)
    from needs n
    join (select distinct type, profile_id from servers) s on s.type = n.type
    left join profiles p on p.id = s.profile_id
    where n.id = need
    order by cardinality(missing(p.offers, n.wants)) nulls first, p.id
    limit 1
  ), '{}')
$$;

alter table tasks
  add need_id int references needs,
  add rank double precision,
  add not_before timestamptz,
  add avoid int[] not null default '{}';
comment on column tasks.need_id is 'What it asks of a server.';
comment on column tasks.rank is
  'Place in the owner''s own queue, lowest first; null unless it can be dispatched. A point of priority counts for ten minutes.';
comment on column tasks.not_before is 'Back-off: a waiting task is not dispatched before.';
comment on column tasks.avoid is 'Servers on which it failed: it goes to another where there is one.';

-- A task ages by standing still: its rank is when it began to wait, moved by its priority, so that what waits longer
-- overtakes what is more urgent without any row being written.
create function rank_task() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' or new.need_id is null or (new.status = 'waiting' and old.status <> 'waiting') then
    new.need_id := find_need(new);
  end if;
  if new.status = 'waiting' then
    new.waiting_at := coalesce(new.waiting_at, now());
  end if;
  new.rank := case when new.status = 'waiting' and new.not_before is null
    then extract(epoch from new.waiting_at) - 600 * new.priority end;
  return new;
end $$;
create trigger d_rank_insert before insert on tasks for each row execute function rank_task();
create trigger d_rank_update before update of status, priority, not_before, waiting_at on tasks
  for each row execute function rank_task();
create index tasks_queued on tasks (need_id, user_id, rank, id) where rank is not null;
create index tasks_backing_off on tasks (not_before) where not_before is not null and status = 'waiting';
create index tasks_pending on tasks (user_id) where status in ('initial', 'ready', 'waiting');
drop index tasks_waiting;

create table queues (
  user_id   int not null references users on delete cascade,
  need_id   int not null references needs,
  type      text not null,
  waiting   int not null,
  rank      double precision not null,
  priority  int not null,
  since     timestamptz not null,
  served_at timestamptz not null default '-infinity',
  primary key (user_id, need_id)
);
comment on table queues is
  'How many tasks of a user wait for a kind of server, and the first of them: dispatch looks at these, not at all tasks.';
comment on column queues.rank is 'Of the task whose turn is next; priority and since are of the same one.';
comment on column queues.served_at is 'When a task of this queue last began, was seen to run, or ended.';
create index queues_by_wait on queues (type, greatest(since, served_at)) where waiting > 0;

create table shares (
  user_id     int not null references users on delete cascade,
  type        text not null,
  waiting     int not null default 0,
  priority    int not null default 0,
  since       timestamptz not null default now(),
  served_at   timestamptz not null default '-infinity',
  gpu_seconds double precision not null default 0,
  as_of       timestamptz not null default now(),
  turn        bigint not null,
  used        double precision not null,
  primary key (user_id, type)
);
comment on table shares is
  'What a user had of the pool lately, and has waiting. Ordered by (turn, used): whose turn it is, without looking at the tasks.';
comment on column shares.since is 'Since when something of the user has been waiting without a break.';
comment on column shares.served_at is 'When a task of the user last began, was seen to run, or ended.';
comment on column shares.gpu_seconds is
  'Had lately, running tasks included by what they are expected to take: what was used an hour before as_of counts half.';
comment on column shares.turn is
  'The ten minutes of the clock since which the user has had nothing, earlier by one for each point of priority.';
comment on column shares.used is 'Logarithm of gpu_seconds as they will be at one moment for all users: their order without the time.';
create index shares_turn on shares (type, turn, used, user_id) where waiting > 0;

create function decayed(gpu_seconds double precision, as_of timestamptz, at timestamptz) returns double precision
language sql immutable parallel safe as $$
  select gpu_seconds * exp(-ln(2) / 3600 * greatest(0, extract(epoch from at - as_of)::double precision))
$$;

create function turn_of(since timestamptz, served_at timestamptz, priority int) returns bigint
language sql stable parallel safe as $$
  select floor(extract(epoch from greatest(since, served_at)) / 600)::bigint - priority
$$;

create function set_turn() returns trigger language plpgsql as $$
begin
  new.turn := turn_of(new.since, new.served_at, new.priority);
  new.used := ln(greatest(new.gpu_seconds, 0.001)) + extract(epoch from new.as_of) * ln(2) / 3600;
  return new;
end $$;
create trigger a_turn before insert or update on shares for each row execute function set_turn();

-- Adds to what a user had; a task that begins or ends is service, whatever it costs.
create function charge(of_user int, of_type text, seconds double precision) returns void language sql as $$
  insert into shares as s (user_id, type, gpu_seconds, as_of, served_at)
  -- Nothing is charged to a user who is being deleted.
  select u.id, of_type, greatest(0, seconds), now(), now() from users u where u.id = of_user
  on conflict (user_id, type) do update
  set gpu_seconds = greatest(0, decayed(s.gpu_seconds, s.as_of, now()) + seconds), as_of = now(), served_at = now()
$$;

-- The first task of a queue; nulls when it is empty.
create function find_head(of_user int, of_need int, out rank double precision, out priority int, out waiting_at timestamptz)
language sql stable as $$
  select t.rank, t.priority, t.waiting_at
  from tasks t
  where t.need_id = of_need and t.user_id = of_user and t.rank is not null
  order by t.rank, t.id
  limit 1
$$;

create function highest_priority(of_user int, of_type text) returns int language sql stable as $$
  select coalesce(max(q.priority), 0) from queues q where q.user_id = of_user and q.type = of_type and q.waiting > 0
$$;

-- What is computed from other rows is computed under the lock of the row that keeps it: a statement that waits for its
-- row would still see the others as they were before.
create function count_queue() returns trigger language plpgsql as $$
begin
  if tg_op <> 'INSERT' and old.rank is not null then
    perform from queues q where q.need_id = old.need_id and q.user_id = old.user_id for no key update;
    update queues q
    set waiting = q.waiting - 1,
      rank = coalesce(head.rank, q.rank),
      priority = coalesce(head.priority, q.priority),
      since = coalesce(head.waiting_at, q.since)
    from find_head(old.user_id, old.need_id) head
    where q.need_id = old.need_id and q.user_id = old.user_id;
    perform from shares s where s.user_id = old.user_id and s.type = old.type for no key update;
    update shares s
    set waiting = s.waiting - 1, priority = highest_priority(s.user_id, s.type)
    where s.user_id = old.user_id and s.type = old.type;
  end if;
  if tg_op <> 'DELETE' and new.rank is not null then
    insert into queues as q (user_id, need_id, type, waiting, rank, priority, since)
    values (new.user_id, new.need_id, new.type, 1, new.rank, new.priority, new.waiting_at)
    on conflict (user_id, need_id) do update
    set waiting = q.waiting + 1,
      rank = case when q.waiting = 0 or excluded.rank < q.rank then excluded.rank else q.rank end,
      priority = case when q.waiting = 0 or excluded.rank < q.rank then excluded.priority else q.priority end,
      since = case when q.waiting = 0 or excluded.rank < q.rank then excluded.since else q.since end;
    insert into shares as s (user_id, type, waiting, priority, since)
    values (new.user_id, new.type, 1, new.priority, new.waiting_at)
    on conflict (user_id, type) do update
    set waiting = s.waiting + 1,
      priority = case when s.waiting = 0 then excluded.priority else greatest(s.priority, excluded.priority) end,
      since = case when s.waiting = 0 then excluded.since else least(s.since, excluded.since) end;
  end if;
  return null;
end $$;
create trigger d_queue_insert after insert on tasks
  for each row when (new.rank is not null) execute function count_queue();
-- What dispatch takes out of the queues it counts itself, all at once.
create trigger d_queue_update after update on tasks
  for each row when (
    row(old.rank, old.need_id) is distinct from row(new.rank, new.need_id)
    and not (old.status = 'waiting' and new.status = 'running')
  ) execute function count_queue();
create trigger d_queue_delete after delete on tasks
  for each row when (old.rank is not null) execute function count_queue();

update tasks set waiting_at = coalesce(waiting_at, created_at), status = status
where status in ('initial', 'ready', 'waiting', 'running');
alter table tasks add constraint tasks_waiting_since check (status <> 'waiting' or waiting_at is not null);

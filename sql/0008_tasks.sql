create table tasks (
  id          int generated always as identity primary key,
  name        text collate "C" not null,
  type        text not null,
  status      text not null default 'initial',
  progress    int not null default 0,
  stage       text,
  public      boolean not null default false,
  priority    int not null default 0,
  base_model  text not null,
  params      jsonb not null default '{}',
  error       jsonb,
  metrics     jsonb not null default '[]',
  input_keys  text[] not null default '{}',
  attempts    int not null default 0,
  lease_epoch bigint not null default 0,
  user_id     int not null references users on delete cascade,
  model_id    int references models on delete set null,
  server_id   int references servers on delete set null,
  waiting_at  timestamptz,
  started_at  timestamptz,
  finished_at timestamptz,
  revision    int not null default 1,
  version     int not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  constraint tasks_name_length check (char_length(name) between 1 and 120),
  constraint tasks_type_known check (type in ('train', 'infer')),
  constraint tasks_base_known check (base_model in ('SD1.5', 'SD2')),
  constraint tasks_status_known
    check (status in ('initial', 'ready', 'waiting', 'running', 'success', 'error', 'canceled')),
  constraint tasks_progress_range check (progress between 0 and 100),
  constraint tasks_priority_range check (priority between -100 and 100),
  constraint tasks_finished_when_terminal
    check ((finished_at is not null) = (status in ('success', 'error', 'canceled')))
);
comment on column tasks.stage is 'What the running attempt does: loading, steps, saving.';
comment on column tasks.lease_epoch is 'Fencing number: an update carrying an older one changes nothing.';
comment on column tasks.input_keys is 'Stored files that the task reads: kept for it until it ends.';
comment on column tasks.metrics is 'Loss over the training: [[step, loss], …], thinned to a few hundred points.';
create index tasks_by_user on tasks (user_id, id);
create index tasks_by_model on tasks (model_id) where model_id is not null;
create index tasks_by_server on tasks (server_id) where server_id is not null;
create index tasks_by_input on tasks using gin (input_keys);
create index tasks_waiting on tasks (type, priority desc, id) where status = 'waiting';
create index tasks_unfinished on tasks (status, id) where status in ('initial', 'ready', 'waiting', 'running');
alter table models add constraint models_task foreign key (task_id) references tasks on delete set null;
call watch_table('tasks', array['name', 'public', 'priority', 'user_id'], array['status']);

create table workers (
  id         text primary key,
  host       text not null,
  expires_at timestamptz not null
);
comment on table workers is 'Job runners that live. A heartbeat moves expires_at; past it the worker counts as dead.';

create table leases (
  task_id    int primary key references tasks on delete cascade,
  server_id  int not null references servers,
  worker_id  text,
  handle     jsonb,
  claim_by   timestamptz not null default now() + interval '10 seconds',
  created_at timestamptz not null default now()
);
comment on table leases is 'Which running task occupies a slot of which server. Apart from tasks, so that heartbeats announce nothing.';
comment on column leases.worker_id is 'Who runs it; null until a worker has claimed it, which must be before claim_by.';
comment on column leases.handle is 'Finds the run on its engine: stored before the work is submitted.';
create index leases_by_server on leases (server_id);
create index leases_by_worker on leases (worker_id);
create unique index tasks_one_training on tasks (model_id)
  where type = 'train' and status in ('initial', 'ready', 'waiting', 'running');

-- A server works while a task holds one of its slots.
create function show_work() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    update servers set status = 'working' where id = new.server_id and status in ('idle', 'ready');
  elsif not exists (select from leases where server_id = old.server_id) then
    update servers set status = 'ready' where id = old.server_id and status = 'working';
  end if;
  return null;
end $$;
create trigger c_show_work after insert or delete on leases for each row execute function show_work();

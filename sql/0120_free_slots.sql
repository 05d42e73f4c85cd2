-- A slot is free as soon as its engine has done the work: what it made is fetched and stored while the next task runs.
alter table leases
  alter server_id drop not null,
  add source_id int references servers,
  add freed_at timestamptz,
  add constraint leases_slot_or_source check (num_nonnulls(server_id, source_id) = 1),
  add constraint leases_freed_with_source check ((freed_at is null) = (source_id is null));
comment on table leases is
  'Which running task is in whose hands, and whose slot it occupies. Apart from tasks, so that heartbeats announce nothing.';
comment on column leases.server_id is 'Whose slot it occupies; null once the engine has done the work.';
comment on column leases.source_id is 'Where its results still are, once the engine has done the work.';
comment on column leases.freed_at is 'When its slot became free, which ends the GPU''s time.';

drop trigger c_show_work on leases;
create trigger c_show_work after insert or delete or update of server_id on leases
  for each row execute function show_work();

-- As in 0031, but the GPU's time ends when the slot is free, which may have been before.
create or replace function end_attempt(of_task int, ended text, with_class text default null, of_steps int default null, at_speed double precision default null)
returns leases language plpgsql as $$
declare
  held leases;
  used double precision;
begin
  delete from leases where task_id = of_task returning * into held;
  if held.task_id is null then
    return null;
  end if;
  used := extract(epoch from coalesce(held.freed_at, clock_timestamp()) - held.created_at);
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
    update servers set run_failures = 0
    where id = coalesce(held.server_id, held.source_id) and run_failures > 0;
  end if;
  if held.server_id is not null or ended = 'retry' then
    perform pg_notify('pool', '');
  end if;
  return held;
end $$;

-- As in 0031, but nothing has to be ended on an engine that has done the work.
create or replace function release_task() returns trigger language plpgsql as $$
declare
  held leases := end_attempt(old.id, 'canceled');
begin
  if held.handle is not null and held.server_id is not null then
    perform graphile_worker.add_job(
      'cancel-run',
      json_build_object('server_id', held.server_id, 'handle', held.handle),
      max_attempts := 12
    );
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;

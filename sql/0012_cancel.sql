-- A canceled or deleted task must still reach its engine. The job that does so carries the engine's handle, so it
-- survives the task's row.
create function release_task() returns trigger language plpgsql as $$
declare
  held leases;
begin
  delete from leases where task_id = old.id returning * into held;
  if held.handle is not null then
    perform graphile_worker.add_job(
      'cancel-run',
      json_build_object('server_id', held.server_id, 'handle', held.handle),
      max_attempts := 12
    );
  end if;
  if held.server_id is not null then
    perform graphile_worker.add_job('dispatch', json_build_object(), job_key := 'dispatch');
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger c_release_canceled before update of status on tasks
  for each row when (new.status = 'canceled' and old.status <> 'canceled') execute function release_task();
create trigger c_release_deleted before delete on tasks for each row execute function release_task();

-- What is deleted takes its unfinished work along: a model its training, the last image of a task the task. An after
-- trigger, since the task's own trigger writes to the model, which must not happen to a row on its way out.
create function cancel_orphaned_task() returns trigger language plpgsql as $$
begin
  if tg_table_name = 'images' and exists (select from images where task_id = old.task_id) then
    return null;
  end if;
  update tasks set status = 'canceled', finished_at = now()
  where id = old.task_id
    and status in ('initial', 'ready', 'waiting', 'running');
  return null;
end $$;
create trigger c_cancel_training after delete on models
  for each row when (old.task_id is not null) execute function cancel_orphaned_task();
create trigger c_cancel_task after delete on images
  for each row when (old.task_id is not null) execute function cancel_orphaned_task();

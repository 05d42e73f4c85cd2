-- A model that thousands of images name: moving all their versions within the request that makes it private takes seconds
-- and locks them all. More than two hundred are announced at once, as a change of the whole table: sockets read again
-- what they show. Their versions, which ETags go by, are moved behind it, by a job in small transactions.
create function spread_to(referring text, reference text, id int) returns void language plpgsql as $$
declare
  are_many bool;
begin
  execute format('select count(*) > 200 from (select from %I where %I = $1 limit 201) few', referring, reference)
    into are_many using id;
  if are_many then
    insert into announcements (name, ids) values (referring, null);
    perform graphile_worker.add_job('spread-sight',
      json_build_object('referring', referring, 'reference', reference, 'id', id),
      job_key := format('spread-sight %s %s %s', referring, reference, id), max_attempts := 12);
  else
    execute format('update %I set version = version where %I = $1', referring, reference) using id;
  end if;
end $$;

create or replace function spread_sight() returns trigger language plpgsql as $$
begin
  case tg_table_name
    when 'datasets' then
      perform spread_to('models', 'dataset_id', new.id);
    when 'models' then
      perform spread_to('images', 'model_id', new.id);
      perform spread_to('tasks', 'model_id', new.id);
    when 'images' then
      update tasks set version = version where id = coalesce(new.task_id, old.task_id);
    when 'tasks' then
      update images set version = version where task_id = new.id;
      update models set version = version where task_id = new.id;
  end case;
  return null;
end $$;

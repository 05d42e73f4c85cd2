-- What a row shows of others depends on whether those are public: their ids and their pictures are hidden from those who
-- may not see them. So whatever comes into sight or goes out of it moves the version of the rows that refer to it, as a
-- tag's new name does: sockets are told, and no ETag outlives its view.

-- Setting the version to itself moves it by one, see touch_row(). A model may be named by thousands of images: moving all
-- their versions within the request that makes it private takes seconds and locks them all. More than two hundred are
-- announced at once, as a change of the whole table: sockets read again what they show. Their versions, which ETags go
-- by, are moved behind it, by a job in small transactions.
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

create function spread_sight() returns trigger language plpgsql as $$
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
create trigger e_spread_sight after update of public, user_id on datasets
  for each row when (row(old.public, old.user_id) is distinct from row(new.public, new.user_id))
  execute function spread_sight();
create trigger e_spread_sight after update of public, user_id on models
  for each row when (row(old.public, old.user_id) is distinct from row(new.public, new.user_id))
  execute function spread_sight();
create trigger e_spread_sight after update of public, user_id on images
  for each row when (row(old.public, old.user_id) is distinct from row(new.public, new.user_id))
  execute function spread_sight();
create trigger e_spread_sight after update of public, user_id on tasks
  for each row when (row(old.public, old.user_id) is distinct from row(new.public, new.user_id))
  execute function spread_sight();
-- A task names its images; what else refers to a deleted row has its column set to null.
create trigger e_spread_loss after delete on images
  for each row when (old.task_id is not null) execute function spread_sight();

-- A file is open to others as long as a public row of its owner shows it, see is_file_public().
create function spread_opening() returns trigger language plpgsql as $$
declare
  before text[] := '{}';
  after text[] := '{}';
  turned text[];
  owner int;
begin
  case tg_table_name
    when 'images' then
      if tg_op <> 'INSERT' and old.public then before := array[file_path(old.file_key)]; end if;
      if tg_op <> 'DELETE' and new.public then after := array[file_path(new.file_key)]; end if;
    when 'models' then
      if tg_op <> 'INSERT' and old.public then before := array[old.image]; end if;
      if tg_op <> 'DELETE' and new.public then after := array[new.image]; end if;
    when 'datasets' then
      if tg_op <> 'INSERT' and old.public then before := old.images; end if;
      if tg_op <> 'DELETE' and new.public then after := new.images; end if;
  end case;
  owner := case tg_op when 'DELETE' then old.user_id else new.user_id end;
  turned := array(
    select p.path
    from (
      (select unnest(before) except select unnest(after))
      union all
      (select unnest(after) except select unnest(before))
    ) p (path)
    join files f on f.key = substr(p.path, 12) and p.path = file_path(f.key)
    where f.user_id = owner
  );
  if turned <> '{}' then
    update images set version = version where from_image = any (turned);
    -- The owner's own show it in any case.
    update models set version = version where image = any (turned) and user_id <> owner;
    update datasets set version = version where images && turned and user_id <> owner;
  end if;
  return null;
end $$;
-- An image gets its file after it was made.
create trigger e_spread_opening after update of public, file_key on images
  for each row when ((old.public or new.public) and row(old.public, old.file_key) is distinct from row(new.public, new.file_key))
  execute function spread_opening();
create trigger e_spread_closing after delete on images
  for each row when (old.public and old.file_key is not null) execute function spread_opening();
create trigger e_spread_opening after update of public, image on models
  for each row when ((old.public or new.public) and row(old.public, old.image) is distinct from row(new.public, new.image))
  execute function spread_opening();
create trigger e_spread_making after insert on models
  for each row when (new.public and new.image is not null) execute function spread_opening();
create trigger e_spread_closing after delete on models
  for each row when (old.public and old.image is not null) execute function spread_opening();
create trigger e_spread_opening after update of public, images on datasets
  for each row when ((old.public or new.public) and row(old.public, old.images) is distinct from row(new.public, new.images))
  execute function spread_opening();
create trigger e_spread_making after insert on datasets
  for each row when (new.public and new.images <> '{}') execute function spread_opening();
create trigger e_spread_closing after delete on datasets
  for each row when (old.public and old.images <> '{}') execute function spread_opening();

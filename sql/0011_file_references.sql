-- A file lives as long as a row refers to it. Whatever drops a reference, a cascade included, adds a job in the same
-- transaction that removes the file unless something else refers to it by then.

create function file_path(key text) returns text language sql immutable parallel safe as $$
  select '/api/files/' || key
$$;

create function is_file_used(wanted text) returns boolean language sql stable as $$
  select exists (select from models where model_path = wanted)
    or exists (select from images where file_key = wanted)
    or exists (select from images where thumbnail_key = wanted)
    or exists (select from models where image = file_path(wanted))
    or exists (select from images where from_image = file_path(wanted))
    or exists (select from datasets where images @> array[file_path(wanted)])
    or exists (
      select from tasks
      where input_keys @> array[wanted]
        and status in ('initial', 'ready', 'waiting', 'running')
    )
$$;

-- May a caller who is neither the owner nor an admin see a file: only what a public object of the file's own owner shows.
create function is_file_public(wanted text, owner int) returns boolean language sql stable as $$
  select exists (select from images where (file_key = wanted or thumbnail_key = wanted) and public and user_id = owner)
    or exists (select from models where image = file_path(wanted) and public and user_id = owner)
    or exists (select from datasets where images @> array[file_path(wanted)] and public and user_id = owner)
$$;

create function sweep_files(dropped text[]) returns void language plpgsql as $$
declare
  keys text[] := (
    select array_agg(distinct replace(d, '/api/files/', '')) from unnest(dropped) d
    where d is not null and d not like 'http%'
  );
begin
  if keys is not null then
    perform graphile_worker.add_job('delete-files', json_build_object('keys', keys));
  end if;
end $$;

create function drop_file_references() returns trigger language plpgsql as $$
declare
  before text[];
  after text[] := '{}';
begin
  case tg_table_name
    when 'datasets' then
      before := old.images;
      if tg_op = 'UPDATE' then after := new.images; end if;
    when 'models' then
      before := array[old.model_path, old.image];
      if tg_op = 'UPDATE' then after := array[new.model_path, new.image]; end if;
    when 'images' then
      before := array[old.file_key, old.thumbnail_key, old.from_image];
      if tg_op = 'UPDATE' then after := array[new.file_key, new.thumbnail_key, new.from_image]; end if;
    when 'tasks' then
      before := old.input_keys;
      if tg_op = 'UPDATE' and new.finished_at is null then after := new.input_keys; end if;
  end case;
  perform sweep_files(array(select b from unnest(before) b where b is not null and not b = any (array_remove(after, null))));
  return null;
end $$;
create trigger d_files_update after update of images on datasets
  for each row when (old.images <> new.images) execute function drop_file_references();
create trigger d_files_delete after delete on datasets for each row execute function drop_file_references();
create trigger d_files_update after update of model_path, image on models
  for each row when (old.model_path is distinct from new.model_path or old.image is distinct from new.image)
  execute function drop_file_references();
create trigger d_files_delete after delete on models for each row execute function drop_file_references();
create trigger d_files_update after update of file_key, thumbnail_key on images
  for each row when (old.file_key is distinct from new.file_key or old.thumbnail_key is distinct from new.thumbnail_key)
  execute function drop_file_references();
create trigger d_files_delete after delete on images for each row execute function drop_file_references();

create trigger d_files_update after update of finished_at, input_keys on tasks
  for each row when (old.input_keys <> new.input_keys or (old.input_keys <> '{}' and new.finished_at is not null))
  execute function drop_file_references();
create trigger d_files_delete after delete on tasks
  for each row when (old.input_keys <> '{}') execute function drop_file_references();

-- A deleted user's uploads lose their owner; nothing else may keep them, so the same job looks at them.
create function drop_owned_files() returns trigger language plpgsql as $$
begin
  perform sweep_files(array[old.key]);
  return null;
end $$;
create trigger d_owner_gone after update of user_id on files
  for each row when (new.user_id is null and old.user_id is not null) execute function drop_owned_files();

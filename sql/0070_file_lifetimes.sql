-- Thumbnails lie beside their picture in the store and live as long; only their placeholder is kept in rows.
alter table files
  add thumbhash text,
  add metadata jsonb not null default '{}',
  add uploaded_again_at timestamptz;
comment on column files.metadata is 'Of a model: what its maker wrote into it, as far as it is short. Unverified.';
comment on column files.thumbhash is 'Placeholder (base64) of a picture that has thumbnails, {key}.512.webp and {key}.256.webp.';
comment on column files.uploaded_again_at is 'When the owner last uploaded bytes that were here already, perhaps to use them anew.';

alter table images add thumbhash text;
comment on column images.thumbhash is 'That of its file, kept here for lists.';
create function show_picture() returns trigger language plpgsql as $$
begin
  new.thumbhash := (select thumbhash from files where key = new.file_key);
  return new;
end $$;
create trigger a_picture before update of file_key on images
  for each row when (old.file_key is distinct from new.file_key) execute function show_picture();

-- Thumbnails of before were files of their own.
drop trigger d_files_update on images;
do $$
begin
  perform sweep_files(array(select thumbnail_key from images where thumbnail_key is not null));
end $$;
alter table images drop column thumbnail_key;

create or replace function is_file_used(wanted text) returns boolean language sql stable as $$
  select exists (select from models where model_path = wanted)
    or exists (select from images where file_key = wanted)
    or exists (select from models where image = file_path(wanted))
    or exists (select from images where from_image = file_path(wanted))
    or exists (select from datasets where images @> array[file_path(wanted)])
    or exists (
      select from tasks
      where input_keys @> array[wanted]
        and status in ('initial', 'ready', 'waiting', 'running')
    )
$$;

create or replace function is_file_public(wanted text, owner int) returns boolean language sql stable as $$
  select exists (select from images where file_key = wanted and public and user_id = owner)
    or exists (select from models where image = file_path(wanted) and public and user_id = owner)
    or exists (select from datasets where images @> array[file_path(wanted)] and public and user_id = owner)
$$;

-- As before, but not in the square of a data set's length.
create or replace function drop_file_references() returns trigger language plpgsql as $$
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
      before := array[old.file_key, old.from_image];
      if tg_op = 'UPDATE' then after := array[new.file_key, new.from_image]; end if;
    when 'tasks' then
      before := old.input_keys;
      if tg_op = 'UPDATE' and new.finished_at is null then after := new.input_keys; end if;
  end case;
  perform sweep_files(array(
    select b from unnest(before) b where b is not null
    except
    select unnest(after)
  ));
  return null;
end $$;
create trigger d_files_update after update of file_key, from_image on images
  for each row
  when (old.file_key is distinct from new.file_key or old.from_image is distinct from new.from_image)
  execute function drop_file_references();

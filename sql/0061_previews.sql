-- What an engine shows of a picture while it is made: small, replaced twice a second, and gone with the run. Kept apart
-- from what it shows, so that no version moves, and unlogged: a crash may lose it.
create unlogged table previews (
  task_id  int primary key references tasks on delete cascade,
  image_id int references images on delete cascade,
  number   bigint not null default floor(extract(epoch from clock_timestamp()) * 1000),
  bytes    bytea not null
);
comment on column previews.image_id is 'The image that is made; null while a model is trained.';
comment on column previews.number is 'Tells one picture from the next in its URL.';
comment on column previews.bytes is 'WebP, a few kilobytes.';
create index previews_by_image on previews (image_id) where image_id is not null;

-- Whoever watches the task, its image or its model is to look again.
create function announce_preview() returns trigger language plpgsql as $$
declare
  shown previews := case tg_op when 'DELETE' then old else new end;
begin
  insert into announcements (name, ids)
  select 'tasks', array[shown.task_id::text]
  union all
  select 'images', array[shown.image_id::text] where shown.image_id is not null
  union all
  select 'models', array_agg(id::text) from models where shown.image_id is null and task_id = shown.task_id having count(*) > 0;
  return null;
end $$;
create trigger z_announce after insert or update or delete on previews
  for each row execute function announce_preview();

create function drop_preview() returns trigger language plpgsql as $$
begin
  delete from previews where task_id = new.id;
  return null;
end $$;
create trigger e_drop_preview after update of status on tasks
  for each row when (old.status = 'running' and new.status <> 'running') execute function drop_preview();

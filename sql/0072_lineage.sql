-- Where a picture comes from: which file of a model made it, which training made that file, and of which pictures.

alter table models
  add metadata jsonb not null default '{}',
  add autov2 text generated always as (left(hash, 10)) stored;
comment on column models.metadata is 'What the maker of its file wrote into it (files.metadata), kept here for lists.';
comment on column models.autov2 is 'The short hash that tools and pictures name a model by.';
comment on column models.manifest is 'The exact pictures of the training that made its file: [{key, hash, caption, url}].';
create index models_by_hash on models (hash) where hash is not null;

create function show_model_file() returns trigger language plpgsql as $$
begin
  new.metadata := coalesce((select metadata from files where key = new.model_path), '{}');
  return new;
end $$;
create trigger a_file_insert before insert on models
  for each row when (new.model_path is not null) execute function show_model_file();
create trigger a_file_update before update of model_path on models
  for each row when (old.model_path is distinct from new.model_path) execute function show_model_file();

drop trigger f_search_insert on models;
drop trigger f_search_update on models;
drop trigger f_search_delete on models;
call make_searchable('models', array['name', 'trigger_words', 'autov2']);
update search_entries set text = null, grams = null where resource = 'models';

alter table tasks
  add manifest jsonb not null default '[]',
  add model_hash text;
comment on column tasks.manifest is 'Of a training: its pictures, pinned before it waits: [{key, hash, caption, url}].';
comment on column tasks.model_hash is 'Of a training that succeeded: sha256 of the file it made.';
update tasks k set manifest = m.manifest from models m where m.task_id = k.id and m.manifest <> '[]';

-- The model's file is written just before its training's success, in the same transaction.
create function finish_training() returns trigger language plpgsql as $$
begin
  update models set manifest = new.manifest where id = new.model_id and manifest <> new.manifest;
  new.model_hash := (select hash from models where id = new.model_id);
  return new;
end $$;
create trigger c_finish_training before update of status on tasks
  for each row when (new.type = 'train' and new.status = 'success' and old.status <> 'success')
  execute function finish_training();
create index tasks_by_product on tasks (model_id, model_hash) where model_hash is not null;

alter table images add model_hash text;
comment on column images.model_hash is 'sha256 of the model''s file that it was made with: the model may have been trained again since.';
create or replace function show_picture() returns trigger language plpgsql as $$
begin
  new.thumbhash := (select thumbhash from files where key = new.file_key);
  new.model_hash := (select hash from models where id = new.model_id);
  return new;
end $$;

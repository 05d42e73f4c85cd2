create table models (
  id            int generated always as identity primary key,
  name          text collate "C" not null,
  info          text not null default '',
  type          text not null,
  trigger_words text not null default '',
  base_model    text not null,
  model_path    text references files,
  status        text not null default 'initial',
  progress      int not null default 0,
  error         jsonb,
  image         text,
  hash          text,
  epochs        int not null,
  train         jsonb not null default '{}',
  manifest      jsonb not null default '[]',
  public        boolean not null default false,
  uses          int not null default 0,
  tag_ids       int[] not null default '{}',
  user_id       int not null references users on delete cascade,
  dataset_id    int references datasets on delete set null,
  task_id       int,
  server_id     int references servers on delete set null,
  revision      int not null default 1,
  version       int not null default 1,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  constraint models_name_length check (char_length(name) between 1 and 120),
  constraint models_type_known check (type in ('lora', 'ckp', 'hyper', 'ti')),
  constraint models_base_known check (base_model in ('SD1.5', 'SD2')),
  constraint models_status_known check (status in ('initial', 'ready', 'waiting', 'running', 'success', 'error')),
  constraint models_progress_range check (progress between 0 and 100),
  constraint models_file_and_hash check ((model_path is null) = (hash is null)),
  constraint models_success_has_file check (status <> 'success' or model_path is not null)
);
comment on column models.model_path is 'Key of the model''s file in the store; kept while the model is trained again.';
comment on column models.hash is 'sha256 of the model''s file.';
comment on column models.epochs is 'Training steps.';
comment on column models.manifest is 'The exact pictures of the training: [{hash, caption, url}].';
comment on column models.task_id is 'The training that the status and progress are taken from.';
create index models_by_user on models (user_id, id);
create index models_by_dataset on models (dataset_id) where dataset_id is not null;
create index models_by_file on models (model_path) where model_path is not null;
create index models_by_cover on models (image) where image is not null;
create index models_by_task on models (task_id) where task_id is not null;
create index models_by_server on models (server_id) where server_id is not null;
call watch_table('models', array['name', 'info', 'trigger_words', 'image', 'public', 'tag_ids', 'user_id'],
  array['status', 'model_path']);

create table images (
  id                  int generated always as identity primary key,
  name                text collate "C" not null,
  width               int not null,
  height              int not null,
  prompt              text not null,
  negative_prompt     text not null default '',
  num_inference_steps int not null,
  guidance_scale      real not null,
  scheduler           text not null,
  seed                int not null,
  from_image          text,
  strength            real,
  base_model          text not null,
  file_key            text references files,
  thumbnail_key       text references files,
  status              text not null default 'initial',
  progress            int not null default 0,
  error               jsonb,
  public              boolean not null default false,
  tag_ids             int[] not null default '{}',
  user_id             int not null references users on delete cascade,
  model_id            int references models on delete set null,
  task_id             int references tasks on delete set null,
  revision            int not null default 1,
  version             int not null default 1,
  created_at          timestamptz not null default now(),
  updated_at          timestamptz not null default now(),
  constraint images_name_length check (char_length(name) between 1 and 120),
  constraint images_steps_range check (num_inference_steps between 1 and 500),
  constraint images_guidance_range check (guidance_scale between 1 and 20),
  constraint images_scheduler_known
    check (scheduler in ('DDIM', 'K_EULER', 'DPMSolverMultistep', 'K_EULER_ANCESTRAL', 'PNDM', 'KLMS')),
  constraint images_seed_range check (seed >= 0),
  constraint images_strength_with_source check ((strength is null) = (from_image is null)),
  constraint images_base_known check (base_model in ('SD1.5', 'SD2')),
  constraint images_status_known check (status in ('initial', 'ready', 'waiting', 'running', 'success', 'error')),
  constraint images_progress_range check (progress between 0 and 100),
  constraint images_success_has_file check (status <> 'success' or file_key is not null)
);
comment on column images.from_image is 'Picture to start from: /api/files/{key} for what we store, else an absolute http(s) URL.';
comment on column images.strength is 'Share of from_image that may change, 0 to 1.';
create index images_by_user on images (user_id, id);
create index images_by_model on images (model_id) where model_id is not null;
create index images_by_task on images (task_id, id) where task_id is not null;
create index images_by_file on images (file_key) where file_key is not null;
create index images_by_thumbnail on images (thumbnail_key) where thumbnail_key is not null;
create index images_by_source on images (from_image) where from_image is not null;
call watch_table('images', array['name', 'public', 'tag_ids', 'user_id'], array['status', 'file_key']);

-- A model carries the status and progress of its training; images follow their task until each has its own outcome.
-- What was canceled shows as an error of class "canceled": only tasks know that status. A model that keeps an older
-- file after a canceled training is as usable as before.
create function mirror_task() returns trigger language plpgsql as $$
declare
  shown text := case new.status when 'canceled' then 'error' else new.status end;
  shown_error jsonb := case
    when new.status = 'canceled' then jsonb_build_object('class', 'canceled', 'detail', 'The task was canceled')
    else new.error
  end;
begin
  if new.type = 'train' then
    update models
    set status = case when new.status = 'canceled' and model_path is not null then 'success' else shown end,
      progress = case when new.status = 'canceled' and model_path is not null then 100 else new.progress end,
      error = shown_error
    where task_id = new.id
      and (new.status <> 'success' or model_path is not null);
  elsif old.status <> new.status and new.status not in ('running', 'success') then
    update images
    set status = shown, error = shown_error, progress = case when shown = 'error' then progress else 0 end
    where task_id = new.id
      and status <> 'success';
  end if;
  return null;
end $$;
create trigger c_mirror after update of status, progress, error on tasks
  for each row when (old.status <> new.status or old.progress <> new.progress or old.error is distinct from new.error)
  execute function mirror_task();

-- A tag's new name shows on all that carries it; a deleted tag comes off everything.
create function spread_tag() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    update datasets set revision = revision + 1 where id in (select row_id from dataset_tags where tag_id = new.id);
    update models set revision = revision + 1 where id in (select row_id from model_tags where tag_id = new.id);
    update images set revision = revision + 1 where id in (select row_id from image_tags where tag_id = new.id);
  else
    update datasets set tag_ids = array_remove(tag_ids, old.id)
    where id in (select row_id from dataset_tags where tag_id = old.id);
    update models set tag_ids = array_remove(tag_ids, old.id)
    where id in (select row_id from model_tags where tag_id = old.id);
    update images set tag_ids = array_remove(tag_ids, old.id)
    where id in (select row_id from image_tags where tag_id = old.id);
  end if;
  return null;
end $$;
create trigger c_spread_rename after update of name on tags
  for each row when (old.name <> new.name) execute function spread_tag();
create trigger c_spread_delete after delete on tags
  for each row execute function spread_tag();

-- A task is public only when all that it makes is.
create function follow_public() returns trigger language plpgsql as $$
begin
  update tasks t
  set public = case tg_table_name
    when 'models' then new.public
    else not exists (select from images i where i.task_id = t.id and not i.public)
  end
  where t.id = new.task_id
    or (tg_table_name = 'models' and t.model_id = new.id and t.type = 'train');
  return null;
end $$;
create trigger c_follow_public after update of public on images
  for each row when (old.public <> new.public and new.task_id is not null) execute function follow_public();
create trigger c_follow_public after update of public on models
  for each row when (old.public <> new.public) execute function follow_public();

-- A data set's report is its owner's: another's training of it says only on its own task what became of the pictures.
-- In numbers, since which of them the other may see changes.
alter table tasks
  add pictures jsonb,
  add constraint tasks_pictures_object check (jsonb_typeof(pictures) = 'object');
comment on column tasks.pictures is 'Of a training: how many pictures of its data set got which verdict, {"ok": 95, "too small": 5}.';
comment on column datasets.report is 'What the owner''s last training made of each picture: [{url, status, detail}].';

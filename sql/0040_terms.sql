-- The terms of a task: deadlines, and who is told of it.
alter table tasks
  add column start_before timestamptz,
  add column max_seconds int,
  add column webhook text,
  add column webhook_events text[] not null default '{success,error,canceled}',
  add constraint tasks_seconds_positive check (max_seconds > 0),
  add constraint tasks_events_known
    check (webhook_events <@ array['ready', 'waiting', 'running', 'success', 'error', 'canceled']);
comment on column tasks.start_before is 'A task that has not begun to run by then fails; null: it may wait for ever.';
comment on column tasks.max_seconds is 'Seconds that the task may run on a server; null: as long as it advances.';
comment on column tasks.webhook is 'URL that changes of the status are posted to.';
comment on column tasks.webhook_events is 'The statuses whose coming is posted.';

create or replace trigger b_revision before update on tasks
  for each row when (
    row(old.name, old.public, old.priority, old.user_id, old.start_before, old.max_seconds, old.webhook, old.webhook_events)
    is distinct from
    row(new.name, new.public, new.priority, new.user_id, new.start_before, new.max_seconds, new.webhook, new.webhook_events)
  ) execute function bump_revision();

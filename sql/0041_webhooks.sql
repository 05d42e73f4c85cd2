-- Webhooks: what is to be told, written in the transaction of the change it tells of; jobs of its own carry it.

create table webhook_secrets (
  id            int generated always as identity primary key,
  user_id       int not null references users on delete cascade,
  secret_sealed text not null,
  expires_at    timestamptz,
  created_at    timestamptz not null default now()
);
comment on table webhook_secrets is 'What a user''s webhooks are signed with. One that was replaced signs beside the new one for a day.';
comment on column webhook_secrets.secret_sealed is 'AES-256-GCM under SECRET_KEY with the key''s id; answered once, when it is made.';
comment on column webhook_secrets.expires_at is 'Null: the present one.';
create unique index webhook_secrets_present on webhook_secrets (user_id) where expires_at is null;
create index webhook_secrets_by_user on webhook_secrets (user_id, id desc);
create index webhook_secrets_expiring on webhook_secrets (expires_at) where expires_at is not null;

create table deliveries (
  id         uuid primary key default gen_random_uuid(),
  user_id    int not null references users on delete cascade,
  task_id    int references tasks on delete set null,
  n          int not null,
  event      text not null,
  url        text not null,
  body       text not null,
  status     text not null default 'pending',
  tries      int not null default 0,
  attempts   jsonb not null default '[]',
  due_at     timestamptz default now(),
  created_at timestamptz not null default now(),
  settled_at timestamptz,
  constraint deliveries_number_unique unique (task_id, n),
  constraint deliveries_status_known check (status in ('pending', 'delivered', 'failed')),
  constraint deliveries_due_while_pending check ((due_at is null) = (status <> 'pending')),
  constraint deliveries_settled_at_end check ((settled_at is null) = (status = 'pending'))
);
comment on table deliveries is 'Messages to webhooks: sent, to be sent, given up. A task''s deletion leaves those that are still to be sent.';
comment on column deliveries.id is 'The receiver sees it as webhook-id, the same at every attempt.';
comment on column deliveries.n is 'Counts the deliveries of a task from 1.';
comment on column deliveries.body is 'JSON as it is signed and sent: the task as it was when its status changed.';
comment on column deliveries.tries is 'Attempts begun, and the fencing number of the present one.';
comment on column deliveries.attempts is 'Those that have ended: [{at, status_code, error, ms}, …].';
comment on column deliveries.due_at is 'Not before; while an attempt runs, when it counts as lost.';
create index deliveries_due on deliveries (due_at) where status = 'pending';
create index deliveries_settled on deliveries (settled_at) where settled_at is not null;
create index deliveries_by_user on deliveries (user_id);

create function rfc3339(instant timestamptz) returns text language sql stable parallel safe as $$
  select to_char(instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- The task's row is locked by its update, so the numbers of its deliveries have no gap and no double.
create function tell_webhook() returns trigger language plpgsql as $$
declare
  told uuid;
begin
  insert into deliveries (user_id, task_id, n, event, url, body)
  select new.user_id, new.id, 1 + coalesce((select max(n) from deliveries where task_id = new.id), 0), new.status,
    new.webhook,
    json_build_object(
      'type', 'task.' || new.status,
      'timestamp', rfc3339(now()),
      'data', json_build_object(
        'id', new.id, 'version', new.version, 'name', new.name, 'type', new.type, 'status', new.status,
        'progress', new.progress, 'attempts', new.attempts, 'error', new.error, 'user_id', new.user_id,
        'model_id', new.model_id,
        'image_ids', array(select id from images where task_id = new.id order by id),
        'server_id', new.server_id,
        'created_at', rfc3339(new.created_at), 'started_at', rfc3339(new.started_at),
        'finished_at', rfc3339(new.finished_at)
      )
    )
  returning id into told;
  perform graphile_worker.add_job(
    'deliver-webhook', json_build_object('delivery_id', told), job_key := 'deliver ' || told, max_attempts := 5
  );
  return null;
end $$;
create trigger f_tell_webhook after update of status on tasks
  for each row when (
    new.webhook is not null and new.status <> old.status and new.status = any (new.webhook_events)
  ) execute function tell_webhook();

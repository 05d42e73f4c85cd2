create table samples (
  task_id int not null references tasks on delete cascade,
  step    int not null,
  number  bigint not null default floor(extract(epoch from clock_timestamp()) * 1000),
  bytes   bytea not null,
  primary key (task_id, step)
);
comment on table samples is 'Pictures made with a model while it is trained: small, few, and kept with the task.';
comment on column samples.number is 'Tells one picture from the next at the same step, of a later attempt, in its URL.';
comment on column samples.bytes is 'WebP, a few kilobytes.';

-- Whoever watches the task is to look again.
create function announce_sample() returns trigger language plpgsql as $$
begin
  insert into announcements (name, ids) values ('tasks', array[new.task_id::text]);
  return null;
end $$;
create trigger z_announce after insert or update on samples for each row execute function announce_sample();

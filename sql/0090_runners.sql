-- graphile-worker keeps the jobs of a dead process locked for four hours. Whose locks are alive, our heartbeat says.
alter table workers add locked_by text[] not null default '{}';
comment on column workers.locked_by is 'What this worker''s jobs are locked by in the queue: the ids of its graphile-worker pools.';

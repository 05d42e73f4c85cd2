create table training_runs (
  task_id   int primary key references tasks on delete cascade,
  server_id int not null references servers on delete cascade,
  handle    jsonb not null
);
comment on table training_runs is
  'The last run of each training task on an engine: an attempt that comes to the same server may go on from its states.';
create index training_runs_server on training_runs (server_id);

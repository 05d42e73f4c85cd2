-- How long an attempt may go on: two clocks, both the database's. A worker's lease runs out with its heartbeat; the
-- engine's stall limit is moved by progress alone. Time in which nobody could watch does not count.

create function stall_limit(stage text) returns interval language sql immutable parallel safe as $$
  select case stage
    -- Behind other people's runs in the engine's own queue.
    when 'queued' then interval '1 hour'
    -- A large model from a slow disk takes minutes.
    when 'loading' then interval '15 minutes'
    else interval '5 minutes'
  end
$$;

alter table leases
  add patience interval not null default stall_limit('loading'),
  add stall_at timestamptz not null default now() + stall_limit('loading'),
  add breaks int not null default 0;
comment on column leases.patience is 'For how long the run may go without progress, from the last progress on.';
comment on column leases.stall_at is 'Without progress until then, the run counts as stalled.';
comment on column leases.breaks is 'How often a worker gave it up for an error of its own.';

alter table tasks add tries int not null default 0;
comment on column tasks.tries is 'Attempts since the task was ordered, or set going again by a user.';

alter table servers
  add run_failures int not null default 0,
  add aside_until timestamptz;
comment on column servers.run_failures is 'Tasks that failed here in a row by the server''s own fault.';
comment on column servers.aside_until is 'It gets no task before, however well it answers probes.';

-- A third failure in a row, or more, puts a server aside for a minute, then for two, four, at most an hour.
create function blame_server(of_server int, reason text) returns void language sql as $$
  update servers
  set run_failures = run_failures + 1,
    aside_until = case when run_failures >= 2
      then now() + least(interval '1 hour', interval '1 minute' * 2 ^ least(run_failures - 2, 10)) end,
    status = case when run_failures >= 2 and status in ('idle', 'ready', 'working') then 'error' else status end,
    error = case when run_failures >= 2
      then (run_failures + 1) || ' tasks in a row have failed here. The last: ' || reason else error end
  where id = of_server
$$;

-- Lets tasks back into their queues whose back-off is over.
create function end_back_offs() returns void language sql as $$
  update tasks t set not_before = null
  from (
    select id from tasks
    where status = 'waiting' and not_before <= now()
    order by id
    for update skip locked
  ) due
  where t.id = due.id
$$;

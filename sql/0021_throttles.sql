-- Guesses at passwords, counted where all API processes see them.
create table throttles (
  key           text primary key,
  failures      int not null default 0,
  blocked_until timestamptz not null default '-infinity',
  used_at       timestamptz not null default now(),
  constraint throttles_failures_positive check (failures >= 0)
);
comment on table throttles is 'Attempts that failed, by email and by address. Forgotten an hour after the last one.';
comment on column throttles.key is 'HMAC of what is counted: whatever is typed for an email must not be stored.';
comment on column throttles.failures is 'An attempt counts as failed until it has succeeded, so that parallel ones are seen.';
create index throttles_by_age on throttles (used_at);

-- Counts one attempt under all of the keys, or says how many seconds there are to wait and counts nothing. From the
-- `free`th failure on each one doubles the wait, up to five minutes: an account is never locked for good.
create function throttle_attempt(wanted text[], free int[]) returns int language plpgsql as $$
declare
  moment timestamptz := clock_timestamp();
  free_at timestamptz := (select max(blocked_until) from throttles where key = any (wanted));
begin
  -- Without a lock first: whoever is refused must cost nothing and leave nothing behind.
  if free_at > moment then
    return greatest(1, ceil(extract(epoch from free_at - moment)));
  end if;
  insert into throttles (key) select k from unnest(wanted) k order by k on conflict do nothing;
  perform from throttles where key = any (wanted) order by key for update;
  moment := clock_timestamp();
  free_at := (select max(blocked_until) from throttles where key = any (wanted));
  if free_at > moment then
    return greatest(1, ceil(extract(epoch from free_at - moment)));
  end if;
  update throttles t
  set failures = n.failures,
    blocked_until = case
      when n.failures >= n.free then moment + least(300, power(2, least(n.failures - n.free, 20))) * interval '1 second'
      else '-infinity'
    end,
    used_at = moment
  from (
    select k.key, w.free, case when k.used_at < moment - interval '1 hour' then 1 else k.failures + 1 end as failures
    from unnest(wanted, free) w (key, free)
    join throttles k on k.key = w.key
  ) n
  where t.key = n.key;
  return 0;
end $$;

-- Takes an attempt back that was no failure; a success starts some of its counters anew.
create function throttle_forgive(wanted text[], reset text[]) returns void language plpgsql as $$
begin
  perform from throttles where key = any (wanted) order by key for update;
  delete from throttles where key = any (reset);
  update throttles set failures = greatest(0, failures - 1), blocked_until = '-infinity' where key = any (wanted);
end $$;

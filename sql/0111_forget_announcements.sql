-- Who forgets announcements is whoever runs: workers write them too, also while no API reads them. So what had committed
-- when is kept here, rather than by each process that reads.
create unlogged table announcement_marks (
  at       timestamptz not null default clock_timestamp(),
  snapshot pg_snapshot not null default pg_current_snapshot()
);
comment on table announcement_marks is 'What had committed when, every quarter of a minute, for as long as announcements are kept.';

drop function forget_announcements(pg_snapshot);
-- Forgets what had committed a minute ago: readers that have not read for that long read everything anew.
create function forget_announcements() returns void language plpgsql as $$
declare
  now constant timestamptz := clock_timestamp();
  old announcement_marks;
begin
  if not pg_try_advisory_xact_lock(hashtext('atelier.forget-announcements')) then
    return;
  end if;
  if not exists (select from announcement_marks where at between now - interval '15 s' and now) then
    insert into announcement_marks default values;
  end if;
  select * into old from announcement_marks where at < now - interval '60 s' order by at desc limit 1;
  if found then
    delete from announcements where xid < pg_snapshot_xmax(old.snapshot) and pg_visible_in_snapshot(xid, old.snapshot);
    delete from announcement_marks where at <= old.at;
  end if;
end $$;

-- Announcing without a queue of writers. NOTIFY takes one lock for the whole server at commit and holds it while the
-- log is flushed: sixteen writers that all notify fall to a fraction of their rate. So a writer only notes in an unlogged
-- table what it has changed, and rings a bell (a notification without a payload) unless somebody else is at the bell. A
-- reader that was woken reads the notes that have become visible since its last reading, and looks again a little later
-- for those of the writers that did not ring.
create unlogged table announcements (
  xid  xid8 not null default pg_current_xact_id(),
  name text not null,
  ids  text[]
);
comment on table announcements is 'Which rows changed, for the relay (src/relay/changes.ts); kept for a minute.';
comment on column announcements.xid is
  'Who wrote it: a snapshot tells whether that had committed, so nothing is missed whatever the order of commits.';
comment on column announcements.ids is 'Null when a statement touched over 200 rows: any row of the table may have changed.';
create index announcements_by_xid on announcements (xid);

create or replace function announce() returns trigger language plpgsql as $$
declare
  keys text[] := array(select id::text from changed limit 201);
begin
  if keys <> '{}' then
    insert into announcements (name, ids) values (tg_table_name, case when cardinality(keys) <= 200 then keys end);
  end if;
  return null;
end $$;

-- At the end of the transaction, so that the lock is held for the commit alone. Equal notifications of one transaction
-- are one.
create function ring_bell() returns trigger language plpgsql as $$
begin
  if pg_try_advisory_xact_lock(hashtext('atelier.bell')) then
    notify atelier;
  end if;
  return null;
end $$;
create constraint trigger ring_bell after insert on announcements
  deferrable initially deferred for each row execute function ring_bell();

-- Forgets what every reader has had the time to read: what had committed when an old snapshot was taken.
create function forget_announcements(old_snapshot pg_snapshot) returns void language plpgsql as $$
begin
  if pg_try_advisory_xact_lock(hashtext('atelier.forget-announcements')) then
    delete from announcements where xid < pg_snapshot_xmax(old_snapshot) and pg_visible_in_snapshot(xid, old_snapshot);
  end if;
end $$;

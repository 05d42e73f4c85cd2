-- The bell need not ring for each transaction: who reads looks again for a while after it has found something (`againMs`
-- of src/relay/changes.ts), so whoever commits shortly after a ring is heard of without another. Each ring wakes every
-- listening backend of the database, those of workers too.
create unlogged sequence bell_rung_at;
comment on sequence bell_rung_at is
  'When the bell last rang, in ms since 1970. A sequence: its value is seen before the commit, and nobody waits for it.';

create or replace function ring_bell() returns trigger language plpgsql as $$
declare
  now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
  rung_at bigint := coalesce(pg_sequence_last_value('bell_rung_at'), 0);
begin
  if now_ms not between rung_at and rung_at + 10 then
    perform setval('bell_rung_at', now_ms);
    notify atelier;
  end if;
  return null;
end $$;

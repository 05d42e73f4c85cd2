-- What every table shares: versions, announcements, and the facts that bind a process to this database.

create table settings (
  name  text primary key,
  value text not null
);
comment on table settings is
  'Facts of the installation: a check value of SECRET_KEY and the id of the file storage. A process that finds others stops.';

-- Every update moves the version. The revision moves only with what callers write, updated_at with that and with the
-- columns that tell a step of the row's life (its status). Progress and counters move neither: they change several
-- times a second, and an update that touches no indexed column need not write to every index of the table.
create function touch_row() returns trigger language plpgsql as $$
begin
  new.version := old.version + 1;
  return new;
end $$;

create function bump_revision() returns trigger language plpgsql as $$
begin
  new.revision := old.revision + 1;
  new.updated_at := greatest(now(), old.updated_at);
  return new;
end $$;

create function move_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := greatest(now(), old.updated_at);
  return new;
end $$;

-- Tells the relay which rows changed: `table operation id,id,…`. Keys only: a payload ends near 8 kB, and the reader
-- must judge what it may show anyway. A statement that touches over 200 rows says `resync` instead of naming them.
create function announce() returns trigger language plpgsql as $$
declare
  ids text;
begin
  select case when count(*) > 200 then '*' else string_agg(key, ',') end
  into ids
  from (select id::text as key from changed limit 201) keys;
  if ids = '*' then
    perform pg_notify('atelier', tg_table_name || ' resync *');
  elsif ids is not null then
    perform pg_notify('atelier', tg_table_name || ' ' || lower(tg_op) || ' ' || ids);
  end if;
  return null;
end $$;

-- Gives a table its versions and announcements. A change of the columns in `written` moves the revision and
-- updated_at, one of those in `lived` updated_at alone.
create procedure watch_table(watched regclass, written text[], lived text[] default '{}') language plpgsql as $$
declare
  old_row text := (select string_agg(format('old.%I', c), ', ') from unnest(written) c);
  new_row text := (select string_agg(format('new.%I', c), ', ') from unnest(written) c);
  old_life text := (select string_agg(format('old.%I', c), ', ') from unnest(lived) c);
  new_life text := (select string_agg(format('new.%I', c), ', ') from unnest(lived) c);
begin
  execute format('create trigger a_touch before update on %s for each row execute function touch_row()', watched);
  execute format(
    'create trigger b_revision before update on %s for each row when ((%s) is distinct from (%s)) execute function bump_revision()',
    watched, 'row(' || old_row || ')', 'row(' || new_row || ')');
  if lived <> '{}' then
    execute format(
      'create trigger b_updated before update on %s for each row when ((%s) is distinct from (%s)) execute function move_updated_at()',
      watched, 'row(' || old_life || ')', 'row(' || new_life || ')');
  end if;
  execute format(
    'create trigger z_announce_insert after insert on %s referencing new table as changed for each statement execute function announce()',
    watched);
  execute format(
    'create trigger z_announce_update after update on %s referencing new table as changed for each statement execute function announce()',
    watched);
  execute format(
    'create trigger z_announce_delete after delete on %s referencing old table as changed for each statement execute function announce()',
    watched);
end $$;

-- Keyword search in any script. The application folds a row's texts (letter case, width, Traditional and Simplified
-- forms) and cuts them into grams; a GIN index over the grams finds candidates, a LIKE over the folded text decides.

create table search_entries (
  resource text not null,
  row_id   int not null,
  text     text,
  grams    text[],
  primary key (resource, row_id)
);
comment on table search_entries is 'Folded texts; text is null while the row waits to be folded (see src/search/).';
comment on column search_entries.grams is 'Prefixed by the resource, so that one index serves all.';
create index search_entries_by_gram on search_entries using gin (grams) with (fastupdate = off);
create index search_entries_waiting on search_entries (resource, row_id) where text is null;

-- Whoever changes a searchable text, psql included, leaves the entry waiting; the API folds what it writes itself in
-- the same transaction, and workers fold what others wrote.
create function search_stale() returns trigger language plpgsql as $$
begin
  insert into search_entries (resource, row_id) values (tg_table_name, new.id)
  on conflict (resource, row_id) do update set text = null, grams = null;
  return null;
end $$;
create function search_gone() returns trigger language plpgsql as $$
begin
  delete from search_entries where resource = tg_table_name and row_id in (select id from gone);
  return null;
end $$;

create procedure make_searchable(searched regclass, columns text[]) language plpgsql as $$
begin
  execute format('create trigger f_search_insert after insert on %s for each row execute function search_stale()', searched);
  execute format(
    'create trigger f_search_update after update on %s for each row when (row(%s) is distinct from row(%s)) execute function search_stale()',
    searched,
    (select string_agg(format('old.%I', c), ', ') from unnest(columns) c),
    (select string_agg(format('new.%I', c), ', ') from unnest(columns) c));
  execute format(
    'create trigger f_search_delete after delete on %s referencing old table as gone for each statement execute function search_gone()',
    searched);
end $$;

call make_searchable('users', array['name']);
call make_searchable('tags', array['name']);
call make_searchable('datasets', array['name', 'info']);
call make_searchable('models', array['name', 'trigger_words']);
call make_searchable('images', array['name', 'prompt']);
call make_searchable('tasks', array['name']);

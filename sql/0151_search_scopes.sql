-- Entries repeat who may see their row, so that a search finds, counts and orders its hits without visiting the rows.
-- Both are null of what everybody sees who may read the resource at all.
alter table search_entries add column public boolean, add column user_id int;
drop index search_entries_by_gram; -- built again below: cheaper than following the rewritten rows

-- As search_stale(), for a table whose rows are someone's.
create function search_stale_owned() returns trigger language plpgsql as $$
begin
  insert into search_entries (resource, row_id, public, user_id)
  values (tg_table_name, new.id, new.public, new.user_id)
  on conflict (resource, row_id)
  do update set text = null, grams = null, public = excluded.public, user_id = excluded.user_id;
  return null;
end $$;

create function search_scope() returns trigger language plpgsql as $$
begin
  update search_entries set public = new.public, user_id = new.user_id
  where resource = tg_table_name and row_id = new.id;
  return null;
end $$;

do $$
declare
  searched text;
  t record;
begin
  foreach searched in array array['datasets', 'models', 'images', 'tasks'] loop
    execute format(
      'update search_entries e set public = t.public, user_id = t.user_id from %I t where e.resource = %L and e.row_id = t.id',
      searched, searched);
    for t in
      select tgname, pg_get_triggerdef(oid) as definition
      from pg_trigger
      where tgrelid = searched::regclass and tgfoid = 'search_stale'::regproc
    loop
      execute format('drop trigger %I on %I', t.tgname, searched);
      execute replace(t.definition, 'search_stale()', 'search_stale_owned()');
    end loop;
    execute format(
      'create trigger f_search_scope after update of public, user_id on %I for each row
       when (row(old.public, old.user_id) is distinct from row(new.public, new.user_id))
       execute function search_scope()', searched);
  end loop;
end $$;

create index search_entries_by_gram on search_entries using gin (grams) with (fastupdate = off);

-- A page far out is found without walking to it: totals are kept apart for each block of 65,536 ids, and these tell
-- in which block the page starts. They take the place of list_counts and list_count_changes (0013_lists.sql), and what
-- is said there of these holds for them. Counting what is there takes about a minute for a million images; meanwhile
-- lists can be read, but nothing that is counted can be written.
lock table users, tags, datasets, models, tasks, images in share row exclusive mode;

create table block_counts (
  resource text not null,
  dim      text not null,
  value    text not null,
  scope    int not null,
  block    int not null,
  n        bigint not null,
  primary key (resource, dim, value, scope, block)
);
comment on table block_counts is 'Folded totals of lists; the truth is this plus block_count_changes.';
comment on column block_counts.dim is 'A column''s name, `tag`, or empty for all rows.';
comment on column block_counts.block is 'The ids from block * 65,536 on, as many.';
create index block_counts_empty on block_counts (resource) where n = 0;
create table block_count_changes (
  resource text not null,
  dim      text not null,
  value    text not null,
  scope    int not null,
  block    int not null,
  n        int not null
);
create index block_count_changes_key on block_count_changes (resource, dim, value, scope);

-- Counts a table's rows by each of the columns, and by tag where it has tags: those that are there, anew, and by
-- triggers those that come, change and go.
create or replace procedure count_lists(counted regclass, columns text[]) language plpgsql as $$
declare
  has_tags boolean := exists (select from pg_attribute where attrelid = counted and attname = 'tag_ids');
  is_owned boolean := exists (select from pg_attribute where attrelid = counted and attname = 'public');
  dims text := (select coalesce(string_agg(format(', (%L, c.%I::text)', name, name), ''), '') from unnest(columns) name);
  tags text := case when has_tags then $f$union all select 'tag', unnest(c.tag_ids)::text$f$ else '' end;
  scopes text := case when is_owned
    then 'values (case when c.public then -1 else 0 end), (case when not c.public then c.user_id end)'
    else 'values (-1)' end;
  moving text[] := columns || case when has_tags then array['tag_ids'] else '{}' end
    || case when is_owned then array['public', 'user_id'] else '{}' end;
  has_moved text := format('for each row when (row(%s) is distinct from row(%s))',
    (select string_agg(format('old.%I', m), ', ') from unnest(moving) m),
    (select string_agg(format('new.%I', m), ', ') from unnest(moving) m));
  tally text := format(
    $f$
      select %L, d.dim, d.value, s.scope, c.id >> 16, sum(c.sign)
      from (%%s) c
      cross join lateral (select * from (values ('', '')%s) v %s) d (dim, value)
      cross join lateral (%s) s (scope)
      where d.value is not null
        and s.scope is not null
      group by d.dim, d.value, s.scope, c.id >> 16
      having sum(c.sign) <> 0
    $f$,
    counted::text, dims, tags, scopes);
  event record;
begin
  delete from block_counts where resource = counted::text;
  delete from block_count_changes where resource = counted::text;
  execute 'insert into block_counts ' || format(tally, format('select *, 1 as sign from %s', counted));
  for event in
    values
      ('insert', 'select *, 1 as sign from changed', 'referencing new table as changed for each statement'),
      ('delete', 'select *, -1 as sign from changed', 'referencing old table as changed for each statement'),
      ('update', 'select old.*, -1 as sign union all select new.*, 1', has_moved)
  loop
    continue when event.column1 = 'update' and moving = '{}';
    execute format(
      $f$
        create or replace function %I() returns trigger language plpgsql as $body$
        begin
          insert into block_count_changes %s;
          return null;
        end $body$
      $f$,
      format('count_%s_%s', counted, event.column1), format(tally, event.column2));
    execute format('create or replace trigger %I after %s on %s %s execute function %I()',
      'y_count_' || event.column1, event.column1, counted, event.column3, format('count_%s_%s', counted, event.column1));
  end loop;
end $$;

call count_lists('users', array['name']);
call count_lists('tags', '{}');
call count_lists('datasets', array['user_id', 'name']);
call count_lists('models', array['user_id', 'name', 'type', 'status', 'base_model', 'dataset_id', 'server_id']);
call count_lists('tasks', array['user_id', 'name', 'type', 'status', 'base_model', 'model_id', 'server_id']);
call count_lists('images', array['user_id', 'name', 'status', 'scheduler', 'base_model', 'model_id']);

-- Adds the changes up. One at a time: a second caller has nothing to do and goes away.
create or replace function fold_counts() returns void language plpgsql as $$
begin
  if not pg_try_advisory_xact_lock(hashtext('atelier.fold-counts')) then
    return;
  end if;
  with taken as (
    delete from block_count_changes returning resource, dim, value, scope, block, n
  ), summed as (
    select resource, dim, value, scope, block, sum(n) as n
    from taken
    group by resource, dim, value, scope, block
    having sum(n) <> 0
  )
  insert into block_counts as c
  select * from summed
  on conflict (resource, dim, value, scope, block) do update set n = c.n + excluded.n;
  delete from block_counts where n = 0;
end $$;

-- The exact number of rows in some scopes that have one of the values. PostgreSQL puts the query of a function that
-- returns a relation into the statement that asks; one that returned a value was run apart, which took five times as long.
drop function list_total(text, text, text[], int[]);
create function list_total(of_resource text, of_dim text, of_values text[], of_scopes int[]) returns table (total bigint)
language sql stable parallel safe as $$
  -- Scalar look-ups rather than joins: whatever the planner believes of the arrays, each is one descent of an index.
  select coalesce(sum(
    coalesce((
      select sum(n) from block_counts c
      where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    ), 0) + coalesce((
      select sum(n) from block_count_changes c
      where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    ), 0)
  ), 0)::bigint
  from unnest(of_values) v
  cross join unnest(of_scopes) s
$$;

-- The same by block; blocks without rows may be missing.
create function list_blocks(of_resource text, of_dim text, of_values text[], of_scopes int[])
returns table (first_id bigint, last_id bigint, n bigint) language sql stable parallel safe as $$
  select k.block::bigint << 16, (k.block::bigint << 16) + 65535, sum(k.n)::bigint
  from unnest(of_values) v
  cross join unnest(of_scopes) s
  cross join lateral (
    select c.block, c.n from block_counts c
    where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    union all
    select c.block, c.n from block_count_changes c
    where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
  ) k
  group by k.block
$$;

drop table list_counts, list_count_changes;

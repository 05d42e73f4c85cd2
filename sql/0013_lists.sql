-- What lists need to cost the same at a million rows as at ten thousand: ordered indexes for every filter and viewer,
-- and exact totals that are kept, not counted.

-- Which rows carry a tag, in order of id. Kept by triggers from tag_ids, which holds the order of a row's own tags.
create procedure index_tags(tagged regclass, postings text) language plpgsql as $$
begin
  execute format(
    'create table %I (
      tag_id  int not null,
      row_id  int not null references %s on delete cascade,
      public  boolean not null,
      user_id int not null,
      primary key (tag_id, public, row_id)
    )', postings, tagged);
  execute format('create index on %I (row_id)', postings);
  execute format('create index on %I (tag_id, user_id, row_id) where not public', postings);
  -- A function of its own, whose plans are kept: a dynamic statement would be planned for every row.
  execute format(
    'create function %1$I() returns trigger language plpgsql as $f$
    begin
      if tg_op = ''UPDATE'' then
        delete from %2$I where row_id = new.id;
      end if;
      insert into %2$I select distinct unnest(new.tag_ids), new.id, new.public, new.user_id;
      return null;
    end $f$', 'post_' || postings, postings);
  execute format(
    'create trigger e_tags_insert after insert on %s for each row when (new.tag_ids <> ''{}'') execute function %I()',
    tagged, 'post_' || postings);
  execute format(
    'create trigger e_tags_update after update of tag_ids, public, user_id on %s for each row
     when (old.tag_ids <> new.tag_ids or (new.tag_ids <> ''{}'' and row(old.public, old.user_id) <> row(new.public, new.user_id)))
     execute function %I()', tagged, 'post_' || postings);
end $$;

call index_tags('datasets', 'dataset_tags');
call index_tags('models', 'model_tags');
call index_tags('images', 'image_tags');

-- Everyone's list is the public rows; a user's own adds that user's private rows, an admin's all private rows. Each of
-- the three is a range of one of these two indexes, in order of (column, id), so a page is read without sorting.
create procedure index_lists(listed regclass, columns text[]) language plpgsql as $$
declare
  c text;
begin
  execute format('create index on %s (public, id)', listed);
  execute format('create index on %s (user_id, id) where not public', listed);
  execute format('create index on %s (public, user_id, id)', listed);
  foreach c in array columns loop
    execute format('create index on %s (public, %I, id)', listed, c);
    execute format('create index on %s (user_id, %I, id) where not public', listed, c);
  end loop;
end $$;

call index_lists('datasets', array['name', 'created_at', 'updated_at']);
call index_lists('models',
  array['name', 'created_at', 'updated_at', 'type', 'status', 'base_model', 'dataset_id', 'server_id']);
call index_lists('tasks',
  array['name', 'created_at', 'updated_at', 'type', 'status', 'base_model', 'model_id', 'server_id']);
call index_lists('images',
  array['name', 'created_at', 'updated_at', 'status', 'scheduler', 'base_model', 'model_id']);
create index users_by_name on users (name, id);

-- Totals: how many rows each value of each counted column has, apart for public rows (scope -1), private rows
-- (scope 0) and each user's private rows (scope = user id). Writers only append what they change, so none waits for
-- another; fold_counts() adds the changes up. A reader sums both, in one snapshot: exact at any moment.
create table list_counts (
  resource text not null,
  dim      text not null,
  value    text not null,
  scope    int not null,
  n        bigint not null,
  primary key (resource, dim, value, scope)
);
comment on table list_counts is 'Folded totals of lists; the truth is this plus list_count_changes.';
comment on column list_counts.dim is 'A column''s name, `tag`, or empty for all rows.';
create index list_counts_empty on list_counts (resource) where n = 0;
create table list_count_changes (
  resource text not null,
  dim      text not null,
  value    text not null,
  scope    int not null,
  n        int not null
);
create index list_count_changes_key on list_count_changes (resource, dim, value, scope);

-- Counts a table's rows by each of the columns, and by tag where it has tags. Tables without `public` count as public:
-- who may read them sees all of them. The functions are made for each table: what was tried first, one function that
-- turns rows into jsonb, took several times as long.
create procedure count_lists(counted regclass, columns text[]) language plpgsql as $$
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
  event record;
begin
  for event in
    values
      ('insert', 'select *, 1 as sign from changed', 'referencing new table as changed for each statement'),
      ('delete', 'select *, -1 as sign from changed', 'referencing old table as changed for each statement'),
      ('update', 'select old.*, -1 as sign union all select new.*, 1', has_moved)
  loop
    continue when event.column1 = 'update' and moving = '{}';
    execute format(
      $f$
        create function %I() returns trigger language plpgsql as $body$
        begin
          insert into list_count_changes
          select %L, d.dim, d.value, s.scope, sum(c.sign)
          from (%s) c
          cross join lateral (select * from (values ('', '')%s) v %s) d (dim, value)
          cross join lateral (%s) s (scope)
          where d.value is not null
            and s.scope is not null
          group by d.dim, d.value, s.scope
          having sum(c.sign) <> 0;
          return null;
        end $body$
      $f$,
      format('count_%s_%s', counted, event.column1), counted::text, event.column2, dims, tags, scopes);
    execute format('create trigger %I after %s on %s %s execute function %I()',
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
create function fold_counts() returns void language plpgsql as $$
begin
  if not pg_try_advisory_xact_lock(hashtext('atelier.fold-counts')) then
    return;
  end if;
  with taken as (
    delete from list_count_changes returning resource, dim, value, scope, n
  ), summed as (
    select resource, dim, value, scope, sum(n) as n
    from taken
    group by resource, dim, value, scope
    having sum(n) <> 0
  )
  insert into list_counts as c
  select resource, dim, value, scope, n from summed
  on conflict (resource, dim, value, scope) do update set n = c.n + excluded.n;
  delete from list_counts where n = 0;
end $$;

-- The exact number of rows in some scopes that have one of the values.
create function list_total(of_resource text, of_dim text, of_values text[], of_scopes int[]) returns bigint
language sql stable parallel safe as $$
  -- Scalar look-ups rather than joins: whatever the planner believes of the arrays, each is one descent of an index.
  select coalesce(sum(
    coalesce((
      select n from list_counts c
      where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    ), 0) + coalesce((
      select sum(n) from list_count_changes c
      where c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    ), 0)
  ), 0)::bigint
  from unnest(of_values) v
  cross join unnest(of_scopes) s
$$;

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
  execute format(
    'create trigger e_tags_insert after insert on %s for each row when (new.tag_ids <> ''{}'') execute function post_tags(%L)',
    tagged, postings);
  execute format(
    'create trigger e_tags_update after update of tag_ids, public, user_id on %s for each row
     when (old.tag_ids <> new.tag_ids or (new.tag_ids <> ''{}'' and row(old.public, old.user_id) <> row(new.public, new.user_id)))
     execute function post_tags(%L)', tagged, postings);
end $$;

create function post_tags() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    execute format('delete from %I where row_id = $1', tg_argv[0]) using new.id;
  end if;
  execute format('insert into %I select distinct unnest($1), $2, $3, $4', tg_argv[0])
  using new.tag_ids, new.id, new.public, new.user_id;
  return null;
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

-- The values by which a row is counted.
create function count_dims(counted jsonb, columns text[]) returns table (dim text, value text)
language sql immutable parallel safe as $$
  select '', ''
  union all
  select c, counted ->> c from unnest(columns) c where counted ->> c is not null
  union all
  select 'tag', t from jsonb_array_elements_text(coalesce(counted -> 'tag_ids', '[]')) t
$$;

-- Tables without `public` count as public: who may read them sees all of them.
create function count_scopes(counted jsonb) returns setof int language sql immutable parallel safe as $$
  select case when coalesce(counted ->> 'public', 'true')::boolean then -1 else 0 end
  union all
  select (counted ->> 'user_id')::int where not coalesce(counted ->> 'public', 'true')::boolean
$$;

create function count_statement() returns trigger language plpgsql as $$
begin
  insert into list_count_changes
  select tg_table_name, d.dim, d.value, s, count(*) * case tg_op when 'INSERT' then 1 else -1 end
  from changed c
  cross join lateral to_jsonb(c) as r
  cross join lateral count_dims(r, tg_argv[0]::text[]) d
  cross join lateral count_scopes(r) s
  group by d.dim, d.value, s;
  return null;
end $$;

create function count_update() returns trigger language plpgsql as $$
begin
  insert into list_count_changes
  select tg_table_name, d.dim, d.value, s, sum(side.n)
  from (values (to_jsonb(old), -1), (to_jsonb(new), 1)) side (r, n)
  cross join lateral count_dims(side.r, tg_argv[0]::text[]) d
  cross join lateral count_scopes(side.r) s
  group by d.dim, d.value, s
  having sum(side.n) <> 0;
  return null;
end $$;

create procedure count_lists(counted regclass, columns text[]) language plpgsql as $$
declare
  has_tags boolean := exists (select from pg_attribute where attrelid = counted and attname = 'tag_ids');
  has_public boolean := exists (select from pg_attribute where attrelid = counted and attname = 'public');
  moving text[] := columns || case when has_tags then array['tag_ids'] else '{}' end
    || case when has_public then array['public', 'user_id'] else '{}' end;
begin
  execute format(
    'create trigger y_count_insert after insert on %s referencing new table as changed for each statement execute function count_statement(%L)',
    counted, columns);
  execute format(
    'create trigger y_count_delete after delete on %s referencing old table as changed for each statement execute function count_statement(%L)',
    counted, columns);
  if moving <> '{}' then
    execute format(
      'create trigger y_count_update after update on %s for each row when (row(%s) is distinct from row(%s)) execute function count_update(%L)',
      counted,
      (select string_agg(format('old.%I', m), ', ') from unnest(moving) m),
      (select string_agg(format('new.%I', m), ', ') from unnest(moving) m),
      columns);
  end if;
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
  select coalesce(sum(n), 0)::bigint
  from (
    select n
    from unnest(of_values) v
    cross join unnest(of_scopes) s
    join list_counts c on c.resource = of_resource and c.dim = of_dim and c.value = v and c.scope = s
    union all
    select n
    from unnest(of_values) v
    cross join unnest(of_scopes) s
    join list_count_changes d on d.resource = of_resource and d.dim = of_dim and d.value = v and d.scope = s
  ) known
$$;

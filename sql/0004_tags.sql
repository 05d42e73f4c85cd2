create table tags (
  id         int generated always as identity primary key,
  name       text collate "C" not null,
  revision   int not null default 1,
  version    int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint tags_name_shape check (
    char_length(name) between 1 and 60 and name = normalize(btrim(name), nfkc) and position(',' in name) = 0
  )
);
create unique index tags_name_unique on tags (lower(name));
call watch_table('tags', array['name']);

-- Names to ids in the order given, duplicates (without case) dropped, unknown names created. Safe when two callers
-- create the same name at once: `on conflict` waits for the other and the second read sees its row.
create function tag_ids(names text[]) returns int[] language plpgsql as $$
declare
  ids int[];
begin
  insert into tags (name)
  select min(n) from unnest(names) n
  where not exists (select from tags t where lower(t.name) = lower(n))
  group by lower(n)
  order by lower(n)
  on conflict do nothing;
  select coalesce(array_agg(id order by place), '{}') into ids
  from (
    select t.id, min(place) as place
    from unnest(names) with ordinality as given (name, place)
    join tags t on lower(t.name) = lower(given.name)
    group by t.id
  ) found;
  return ids;
end $$;

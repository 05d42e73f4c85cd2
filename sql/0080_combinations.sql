-- Combinations of filters: the index that leads to the rows of one filter also holds what the other filters compare, so
-- that they are told apart, and counted, without visiting the table. An image's row is written once and read often, and
-- its columns below hardly change: what this costs is room.

-- As index_lists() makes them, with the other columns included, and for some with the tags.
create procedure cover_lists(listed regclass, columns text[], tagged text[]) language plpgsql as $$
declare
  c text;
  covered text;
begin
  foreach c in array columns loop
    covered := (select string_agg(format('%I', o), ', ') from unnest(columns) o where o <> c)
      || case when c = any (tagged) then ', tag_ids' else '' end;
    execute format('drop index %I', format('%s_public_%s_id_idx', listed, c));
    execute format('create index %I on %s (public, %I, id) include (%s)',
      format('%s_public_%s_id_idx', listed, c), listed, c, covered);
    continue when c <> 'user_id';
    execute format('drop index %I', format('%s_user_id_id_idx', listed));
    execute format('create index %I on %s (user_id, id) include (%s) where not public',
      format('%s_user_id_id_idx', listed), listed, covered);
  end loop;
end $$;

call cover_lists('models', array['user_id', 'type', 'status', 'base_model', 'dataset_id', 'server_id'], array['user_id']);
call cover_lists('tasks', array['user_id', 'type', 'status', 'base_model', 'model_id', 'server_id'], '{}');
call cover_lists('images', array['user_id', 'status', 'scheduler', 'base_model', 'model_id'], array['user_id', 'model_id']);

-- Postings repeat all tags of the row, so that one posting tells whether the row has other tags too, and those of its
-- columns that stay as they are.
create procedure cover_tags(tagged regclass, postings text, columns text[]) language plpgsql as $$
declare
  repeated text[] := array['tag_ids'] || columns;
  names text := (select string_agg(format('%I', c), ', ') from unnest(repeated) c);
  new_values text := (select string_agg(format('new.%I', c), ', ') from unnest(repeated) c);
  c text;
begin
  foreach c in array repeated loop
    execute format('alter table %I add column %I %s', postings, c,
      (select format_type(atttypid, atttypmod) from pg_attribute where attrelid = tagged and attname = c));
  end loop;
  execute format('update %I p set (%s) = (select %s from %s t where t.id = p.row_id)', postings, names,
    (select string_agg(format('t.%I', r), ', ') from unnest(repeated) r), tagged);
  execute format('alter table %I alter column tag_ids set not null', postings);
  execute format('alter table %I drop constraint %I', postings, postings || '_pkey');
  execute format('alter table %I add primary key (tag_id, public, row_id) include (user_id, %s)', postings, names);
  execute format('drop index %I', postings || '_tag_id_user_id_row_id_idx');
  execute format('create index %I on %I (tag_id, user_id, row_id) include (%s) where not public',
    postings || '_tag_id_user_id_row_id_idx', postings, names);
  execute format(
    'create or replace function %1$I() returns trigger language plpgsql as $f$
    begin
      if tg_op = ''UPDATE'' then
        delete from %2$I where row_id = new.id;
      end if;
      insert into %2$I (tag_id, row_id, public, user_id, %3$s)
      select t.id, new.id, new.public, new.user_id, %4$s from (select distinct unnest(new.tag_ids) as id) t;
      return null;
    end $f$', 'post_' || postings, postings, names, new_values);
  execute format('drop trigger e_tags_update on %s', tagged);
  execute format(
    'create trigger e_tags_update after update of public, user_id, %s on %s for each row
     when (old.tag_ids <> new.tag_ids or (new.tag_ids <> ''{}'' and row(%s) is distinct from row(%s)))
     execute function %I()',
    names, tagged,
    (select string_agg(format('old.%I', r), ', ') from unnest(array['public', 'user_id'] || columns) r),
    (select string_agg(format('new.%I', r), ', ') from unnest(array['public', 'user_id'] || columns) r),
    'post_' || postings);
end $$;

call cover_tags('datasets', 'dataset_tags', '{}');
call cover_tags('models', 'model_tags', array['type', 'base_model']);
call cover_tags('images', 'image_tags', array['scheduler', 'base_model', 'model_id']);

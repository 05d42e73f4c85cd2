-- Hot: every use of a model (an image made with it) and of an image (an image started from it) counts one, and its
-- weight halves each week. The score is the logarithm of the sum of weights, moved to a fixed point in time:
--
--   hot(now) = log2( sum over uses u of 2^((u - now) / week) )  =  log2( sum 2^(u / week) ) - now / week
--
-- The last term is the same for all rows, so ordering by H = log2( sum 2^(u / week) ) is ordering by heat at any moment:
-- H needs no recomputing as time goes by, and an index serves it. The creation counts as the first use.

create function hot_at(moment timestamptz) returns double precision language sql immutable parallel safe as $$
  select extract(epoch from moment)::double precision / 604800
$$;

-- log2(2^a + 2^b), without leaving the range of doubles.
create function hot_sum(a double precision, b double precision) returns double precision
language sql immutable parallel safe as $$
  select greatest(a, b) + ln(1 + power(2, greatest(least(a, b) - greatest(a, b), -1000))) / ln(2)
$$;

alter table models add column hot double precision not null default hot_at(now());
alter table images add column hot double precision not null default hot_at(now());
comment on column models.hot is 'Heat, see hot_at(); ordered by, never shown.';
create function start_hot() returns trigger language plpgsql as $$
begin
  new.hot := hot_at(new.created_at);
  return new;
end $$;
create trigger a_start_hot before insert on models for each row execute function start_hot();
create trigger a_start_hot before insert on images for each row execute function start_hot();

do $$
declare
  t text;
begin
  foreach t in array array['models', 'images'] loop
    execute format('create index on %I (public, hot, id)', t);
    execute format('create index on %I (user_id, hot, id) where not public', t);
  end loop;
end $$;

-- Uses are appended and folded in within seconds: a popular model's row is not a place where its users queue.
create table uses (
  resource text not null,
  row_id   int not null,
  at       timestamptz not null default now()
);
comment on table uses is 'Uses not folded yet into models.uses, models.hot and images.hot.';

create function note_uses() returns trigger language plpgsql as $$
begin
  if new.status = 'success' and old.status <> 'success' and new.model_id is not null then
    insert into uses (resource, row_id) values ('models', new.model_id);
  end if;
  return null;
end $$;
create trigger e_note_uses after update of status on images
  for each row when (new.status = 'success' and old.status <> 'success') execute function note_uses();

create function note_source() returns trigger language plpgsql as $$
begin
  insert into uses (resource, row_id)
  select 'images', s.id from images s where s.file_key = replace(new.from_image, file_path(''), '') and s.id <> new.id;
  return null;
end $$;
create trigger e_note_source after insert on images
  for each row when (new.from_image is not null) execute function note_source();

create function fold_uses() returns void language plpgsql as $$
begin
  if not pg_try_advisory_xact_lock(hashtext('atelier.fold-uses')) then
    return;
  end if;
  create temporary table folded on commit drop as
    with taken as (
      delete from uses returning resource, row_id, hot_at(at) as h
    ), peaks as (
      select resource, row_id, count(*) as n, max(h) as peak from taken group by resource, row_id
    )
    select p.resource, p.row_id, p.n, p.peak + ln(sum(power(2, greatest(t.h - p.peak, -1000)))) / ln(2) as heat
    from peaks p
    join taken t using (resource, row_id)
    group by p.resource, p.row_id, p.n, p.peak;
  update models m set uses = m.uses + f.n, hot = hot_sum(m.hot, f.heat)
  from folded f where f.resource = 'models' and f.row_id = m.id;
  update images i set hot = hot_sum(i.hot, f.heat)
  from folded f where f.resource = 'images' and f.row_id = i.id;
end $$;

-- What a task of a kind is expected to take, from the last fifty that ended well within a day.
create function measure_needs() returns void language sql as $$
  update needs n set seconds = m.seconds
  from (
    select k.id, avg(a.gpu_seconds) as seconds
    from needs k
    cross join lateral (
      select gpu_seconds from attempts
      where need_id = k.id and outcome = 'success' and ended_at > now() - interval '1 day'
      order by ended_at desc
      limit 50
    ) a
    group by 1
  ) m
  where m.id = n.id
    -- Not for every second more or less: the row is read by all rounds of dispatch.
    and abs(m.seconds - n.seconds) > 0.1 * n.seconds
    and pg_try_advisory_xact_lock(7264304)
$$;

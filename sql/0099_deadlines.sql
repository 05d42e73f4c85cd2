create index tasks_to_start on tasks (start_before)
  where start_before is not null and status in ('initial', 'ready', 'waiting');

-- Ends tasks that had to begin before now.
create function expire_tasks() returns int language sql as $$
  with late as (
    select id from tasks
    where start_before <= now()
      and status in ('initial', 'ready', 'waiting')
    order by id
    for update skip locked
  ), ended as (
    update tasks t
    set status = 'error', finished_at = now(),
      error = jsonb_build_object('class', 'deadline', 'detail', 'The task had not begun by the time that it was to start before')
    from late
    where t.id = late.id
    returning t.id
  )
  select count(*)::int from ended
$$;

-- As in 0122, but whoever finds none due waits for no round.
create or replace function end_back_offs() returns void language plpgsql as $$
declare
  due int[];
begin
  if not exists (select from tasks where status = 'waiting' and not_before <= now()) then
    return;
  end if;
  perform pg_advisory_xact_lock(7264301);
  due := array(
    select id from tasks
    where status = 'waiting' and not_before <= now()
    order by id
    for update skip locked
  );
  perform lock_lines(due);
  update tasks t set not_before = null where t.id = any (due);
end $$;

-- What the outlook of waiting tasks is told from, beside what dispatch keeps.

alter table workers add concurrency int not null default 1;
comment on column workers.concurrency is 'Tasks that it attends at once.';

-- How many servers there are of each kind and state, and how much room they have.
create view supply as
select s.type, s.profile_id, s.status, count(*)::int as servers, sum(s.slots)::int as slots,
  sum(greatest(0, s.slots - s.foreign_runs - coalesce(b.leases, 0)))::int as free
from servers s
left join (select l.server_id, count(*)::int as leases from leases l group by 1) b on b.server_id = s.id
group by 1, 2, 3;

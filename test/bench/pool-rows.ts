/** Waiting tasks in great number, for the benchmarks of the pool. */
import type { Sql } from "../../src/db/client.ts";

/**
 * Row by row the triggers would take minutes: what they would write is written at once instead.
 * @param insert inserts the tasks, as `waiting` and with a `waiting_at`
 */
export async function insertWaiting(sql: Sql, insert: () => PromiseLike<unknown>): Promise<void> {
  await sql`alter table tasks disable trigger user`;
  await insert();
  await sql`
    update tasks t
    set need_id = find_need(t), rank = extract(epoch from t.waiting_at)
    where status = 'waiting' and need_id is null
  `;
  await sql`alter table tasks enable trigger user`;
  await sql`delete from queues`;
  await sql`
    insert into queues (user_id, need_id, type, waiting, rank, priority, since)
    select user_id, need_id, type, count(*), min(rank), 0, min(waiting_at)
    from tasks where status = 'waiting' group by 1, 2, 3
  `;
  await sql`
    insert into shares (user_id, type, waiting, since)
    select user_id, type, count(*), min(waiting_at) from tasks where status = 'waiting' group by 1, 2
    on conflict (user_id, type) do update set waiting = excluded.waiting, since = excluded.since
  `;
  await sql`vacuum analyze tasks, queues, shares`;
}

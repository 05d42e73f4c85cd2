/** Waiting tasks in great number, for the benchmarks of the pool. */
import type { Sql } from "../../src/db/client.ts";
import { tasks } from "../../src/resources/tasks.ts";

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
  // What their lists are counted by.
  await sql`call count_lists('tasks', ${tasks.lists?.counted ?? []})`;
  await sql`vacuum analyze tasks, queues, shares`;
}

/**
 * 1,000 servers of six kinds, 100,000 waiting tasks of 5,000 users with some forty different needs; a tenth of the users
 * have two thirds of the tasks.
 * @returns what there is, in words
 */
export async function insertLargePool(sql: Sql): Promise<string> {
  const servers = Number(process.env.BENCH_SERVERS ?? 1_000);
  const tasks = Number(process.env.BENCH_TASKS ?? 100_000);
  const users = Number(process.env.BENCH_USERS ?? 5_000);
  await sql`
    insert into users (name, email, password_hash)
    select 'user ' || n, 'user' || n || '@example.com', 'x' from generate_series(1, ${users}::int) n
  `;
  await sql`
    insert into servers (name, type, ip, port, status, checkpoints, facts)
    select 'server ' || n, case when n % 10 = 0 then 'train' else 'infer' end, '192.0.2.1', n, 'ready',
      case when n % 3 = 0 then '{"SD1.5": "a"}'::jsonb else '{"SD1.5": "a", "SD2": "b"}' end,
      jsonb_build_object('capabilities', jsonb_build_object('infer', true, 'train', '["lora"]'::jsonb,
        'apply', case when n % 2 = 0 then '["lora", "ckp"]'::jsonb else '["lora", "ckp", "hyper", "ti"]' end,
        'schedulers', '["DDIM", "K_EULER", "DPMSolverMultistep", "K_EULER_ANCESTRAL", "PNDM", "KLMS"]'::jsonb))
    from generate_series(1, ${servers}::int) n
  `;
  await insertWaiting(
    sql,
    () => sql`
      insert into tasks (name, type, status, base_model, params, user_id, waiting_at)
      select 'task', case when n % 20 = 0 then 'train' else 'infer' end, 'waiting',
        (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3],
        jsonb_build_object('width', 512 + 64 * (n % 4), 'height', 512, 'resolution', 512, 'type', 'lora',
          'scheduler', (array['DDIM', 'K_EULER', 'K_EULER', 'DPMSolverMultistep', 'PNDM', 'KLMS'])[1 + n / 7 % 6]),
        1 + floor(${users}::int * random() ^ 4)::int, now() - random() * interval '1 hour'
      from generate_series(1, ${tasks}::int) n
    `,
  );
  await sql`update shares set gpu_seconds = 3600 * random()`;
  await sql`vacuum analyze`;
  const [counted] = await sql`select (select count(*) from needs) as needs, (select count(*) from queues) as queues`;
  return `${servers} servers, ${tasks} waiting tasks of ${users} users, ${counted?.needs} needs, ${counted?.queues} queues`;
}

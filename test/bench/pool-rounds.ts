/**
 * `bun run bench pool`, first part: how long a round of dispatch takes in a large pool. Rows alone: no engine, no worker.
 * 1,000 servers of six kinds, 100,000 waiting tasks of 5,000 users with about a hundred different needs; a tenth of the
 * users have two thirds of the tasks.
 */
import { connect } from "../../src/db/client.ts";
import { dispatch } from "../../src/pool/dispatch.ts";
import { freshDatabase } from "../helpers/database.ts";
import { describeTimes } from "./figures.ts";

const servers = Number(process.env.BENCH_SERVERS ?? 1_000);
const tasks = Number(process.env.BENCH_TASKS ?? 100_000);
const users = Number(process.env.BENCH_USERS ?? 5_000);
const rounds = Number(process.env.BENCH_ROUNDS ?? 20);

const database = await freshDatabase();
const sql = connect(database.url, { max: 2, name: "atelier bench" });
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
// Row by row the triggers would take a minute; what they would write is written at once instead.
await sql`alter table tasks disable trigger user`;
await sql`
  insert into tasks (name, type, status, base_model, params, user_id, waiting_at)
  select 'task', case when n % 20 = 0 then 'train' else 'infer' end, 'waiting', (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3],
    jsonb_build_object('width', 512 + 64 * (n % 4), 'height', 512, 'resolution', 512, 'type', 'lora',
      'scheduler', (array['DDIM', 'K_EULER', 'K_EULER', 'DPMSolverMultistep', 'PNDM', 'KLMS'])[1 + n / 7 % 6]),
    1 + floor(${users}::int * random() ^ 4)::int, now() - random() * interval '1 hour'
  from generate_series(1, ${tasks}::int) n
`;
await sql`
  update tasks t
  set need_id = k.need_id, rank = extract(epoch from t.waiting_at)
  from (
    select type, base_model, params, find_need(min(t.*)) as need_id from tasks t group by 1, 2, 3
  ) k
  where t.type = k.type and t.base_model = k.base_model and t.params = k.params
`.catch(async () => {
  // Composite values have no minimum before PostgreSQL 18.
  await sql`update tasks t set need_id = find_need(t), rank = extract(epoch from t.waiting_at)`;
});
await sql`
  insert into queues (user_id, need_id, type, waiting, rank, priority, since)
  select user_id, need_id, type, count(*), min(rank), 0, min(waiting_at) from tasks group by 1, 2, 3
`;
await sql`alter table tasks enable trigger user`;
await sql`
  insert into shares (user_id, type, waiting, since, gpu_seconds)
  select user_id, type, count(*), min(waiting_at), 3600 * random() from tasks group by 1, 2
`;
await sql`vacuum analyze`;

const counted = await sql`select (select count(*) from needs) as needs, (select count(*) from queues) as queues`;
process.stdout.write(
  `${servers} servers, ${tasks} waiting tasks of ${users} users, ${counted[0]?.needs} needs, ${counted[0]?.queues} queues\n`,
);

async function time(): Promise<{ leased: number; ms: number }> {
  const started = performance.now();
  const leased = await dispatch(sql, { workerId: "bench", capacity: 10_000, maxRunning: 1_000 });
  return { leased: leased.length, ms: performance.now() - started };
}

/** As their workers would. */
async function end(count: number): Promise<void> {
  await sql`
    update tasks set status = 'success', finished_at = now()
    where id in (select task_id from leases order by random() limit ${count})
  `;
  await sql`select end_attempt(t.id, 'success') from tasks t join leases l on l.task_id = t.id where t.status = 'success'`;
}

const all = await time();
process.stdout.write(`all ${all.leased} slots free: ${Math.round(all.ms)} ms\n`);
while ((await time()).leased > 0);
for (const free of [1, 10, 50]) {
  const times: number[] = [];
  let leased = 0;
  for (let round = 0; round < rounds; round += 1) {
    await end(free);
    const one = await time();
    times.push(one.ms);
    leased += one.leased;
  }
  process.stdout.write(`${free} slots free: ${describeTimes(times)}, ${leased / rounds} leased\n`);
}
const nothing: number[] = [];
for (let round = 0; round < rounds; round += 1) nothing.push((await time()).ms);
process.stdout.write(`no slot free: ${describeTimes(nothing)}\n`);
await sql.end({ timeout: 1 });
await database.drop();
process.exit(0);

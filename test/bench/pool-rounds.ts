/**
 * `bun run bench pool`, first part: how long a round of dispatch takes in a large pool. Rows alone: no engine, no worker.
 * 1,000 servers of six kinds, 100,000 waiting tasks of 5,000 users with about a hundred different needs; a tenth of the
 * users have two thirds of the tasks.
 */
import { connect } from "../../src/db/client.ts";
import { dispatch } from "../../src/pool/dispatch.ts";
import { freshDatabase } from "../helpers/database.ts";
import { describeTimes } from "./figures.ts";
import { insertWaiting } from "./pool-rows.ts";

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

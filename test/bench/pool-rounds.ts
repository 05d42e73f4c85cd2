/**
 * `bun run bench pool`, first part: how long a round of dispatch takes in a large pool. Rows alone: no engine, no worker.
 */
import { connect } from "../../src/db/client.ts";
import { dispatch } from "../../src/pool/dispatch.ts";
import { freshDatabase } from "../helpers/database.ts";
import { describeTimes } from "./figures.ts";
import { insertLargePool } from "./pool-rows.ts";

const rounds = Number(process.env.BENCH_ROUNDS ?? 20);

const database = await freshDatabase();
const sql = connect(database.url, { max: 2, name: "atelier bench" });
process.stdout.write(`${await insertLargePool(sql)}\n`);

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

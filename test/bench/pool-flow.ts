/**
 * `bun run bench pool`, third part: work through the real API and a real worker, each a process, to engines that live in
 * this one and need no time; where the idle gap is measured, two hundred milliseconds, for with none it is the time that
 * four tasks at once take these cores. Times are this process's: from sending a POST to an engine's receiving the run,
 * and from the end of a run on an engine to the next one's coming.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Logger, run } from "graphile-worker";
import { openSession } from "../../src/auth/session.ts";
import { connect } from "../../src/db/client.ts";
import { ComfyuiDouble } from "../helpers/comfyui-double.ts";
import { freshDatabase } from "../helpers/database.ts";
import { makePicture } from "../helpers/files.ts";
import { findFreePort } from "../helpers/ports.ts";
import { describeTimes } from "./figures.ts";
import { insertWaiting } from "./pool-rows.ts";

const posts = Number(process.env.BENCH_POSTS ?? 100);
const gapRuns = Number(process.env.BENCH_GAPS ?? 100);
const runMs = 200;
const measured = Number(process.env.BENCH_TASKS ?? 300);
const backlog = Number(process.env.BENCH_BACKLOG ?? 20_000);
const engineCount = 4;
const users = 20;

const database = await freshDatabase();
const directory = mkdtempSync(join(tmpdir(), "atelier-bench-"));
const sql = connect(database.url, { max: 4, name: "atelier bench" });
const port = await findFreePort();
const env = {
  PATH: process.env.PATH ?? "",
  DATABASE_URL: database.url,
  DATA_DIR: directory,
  SECRET_KEY: "a secret key of thirty-two letters",
  PORT: String(port),
  LOG_LEVEL: "error",
  RATE_LIMIT_WRITES: "0",
  RATE_LIMIT_READS: "0",
  WORKER_CONCURRENCY: "32",
};
const api = `http://127.0.0.1:${port}/api`;
const processes = ["start.ts", "worker.ts"].map((file) =>
  Bun.spawn([process.execPath, resolve(import.meta.dirname, `../../src/${file}`)], {
    env,
    stdio: ["ignore", "ignore", "inherit"],
  }),
);

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.on("exit", () => {
  for (const child of processes) child.kill("SIGKILL");
});

await sql`
  insert into users (name, email, password_hash, admin)
  select 'user ' || n, 'user' || n || '@example.com', 'x', n = 1 from generate_series(1, ${users}::int) n
`;
const { token } = await openSession(sql, { userId: 1, ip: "192.0.2.1", userAgent: "bench" });
await until(async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null))?.ok === true);

const picture = new Uint8Array(await makePicture({ width: 64, height: 64 }));
/** An engine, when it received each run, and how long it then stood idle before the next one. */
const engines = await Promise.all(
  Array.from({ length: engineCount }, async (_, index) => {
    const double = new ComfyuiDouble();
    const received = new Map<string, number>();
    const gaps: number[] = [];
    let endedAt = 0;
    double.intercept = async (request, url) => {
      if (url.pathname === "/view")
        return new Response(picture, { headers: { "content-length": String(picture.length) } });
      if (request.method !== "POST" || url.pathname !== "/prompt") return undefined;
      const now = performance.now();
      const { prompt } = (await request.clone().json()) as { prompt: unknown };
      received.set(/"text":"([^"]+)"/.exec(JSON.stringify(prompt))?.[1] ?? "", now);
      if (endedAt > 0) gaps.push(now - endedAt);
      double.requests.length = 0;
      return undefined;
    };
    const send = double.send.bind(double);
    double.send = (name, data, clientId) => {
      if (name === "execution_success") endedAt = performance.now();
      send(name, data, clientId);
    };
    const { port } = double.target;
    await post("servers", { name: `engine ${index}`, type: "infer", engine: "comfyui", ip: "127.0.0.1", port });
    return { double, received, gaps };
  }),
);
await until(async () => {
  const [row] = await sql`select count(*) from servers where status = 'ready'`;
  return row?.count === engineCount;
});

await latency();
await clear();
for (const { double } of engines) double.stepMs = runMs;
await throughput(gapRuns + 20, gapRuns);
process.stdout.write(`idle gap of a slot between two runs of ${runMs} ms: ${describeTimes(takeGaps())}\n`);
await clear();
await beside();
await clear();
for (const { double } of engines) double.stepMs = 0;
takeGaps();
const few = await throughput(100 + measured);
process.stdout.write(`idle gap of a slot between two runs of no time: ${describeTimes(takeGaps())}\n`);
process.stdout.write(`tasks a second, ${engineCount} slots: ${few.toFixed(0)} with 100 to 400 waiting\n`);
await clear();
const many = await throughput(backlog);
process.stdout.write(`tasks a second: ${many.toFixed(0)} with ${backlog} waiting, ratio ${(many / few).toFixed(2)}\n`);
for (const child of processes) child.kill("SIGKILL");
await Promise.all(processes.map((child) => child.exited));
const bare = await bareQueue();
process.stdout.write(
  `bare graphile-worker: ${bare.toFixed(0)} empty jobs a second, ours is ${(few / bare).toFixed(2)} of it\n`,
);
await sql.end({ timeout: 1 });
for (const { double } of engines) await double.stop();
await database.drop();
rmSync(directory, { recursive: true, force: true });
process.exit(0);

/** One POST at a time, with idle servers. */
async function latency(): Promise<void> {
  const times: number[] = [];
  for (let n = 0; n < posts; n += 1) {
    const prompt = `picture ${n}`;
    const started = performance.now();
    await post("images", { prompt, width: 64, height: 64, num_inference_steps: 1 });
    const received = () => engines.map((engine) => engine.received.get(prompt)).find((at) => at !== undefined);
    while (received() === undefined) await Bun.sleep(1);
    times.push((received() as number) - started);
    await until(async () => {
      const [row] = await sql`select count(*) from leases`;
      return row?.count === 0;
    });
  }
  for (const engine of engines) engine.gaps.length = 0;
  process.stdout.write(`from POST to the engine, idle servers: ${describeTimes(times)}\n`);
}

/** A user who always has one task, beside one who has a thousand waiting. */
async function beside(): Promise<void> {
  await insertBacklog(1_000, 1);
  const [before] = await sql`select coalesce(max(id), 0) as id from attempts`;
  await resume();
  const other = await openSession(sql, { userId: 2, ip: "192.0.2.1", userAgent: "bench" });
  const waits: number[] = [];
  const runs = Number(process.env.BENCH_BESIDE ?? 30);
  for (let n = 0; n < runs; n += 1) {
    await post("images", { prompt: `beside ${n}`, width: 64, height: 64, num_inference_steps: 1 }, other.token);
    await until(async () => {
      const [row] = await sql`
        select count(*) from tasks where user_id = 2 and status in ('initial', 'ready', 'waiting', 'running')
      `;
      return row?.count === 0;
    });
  }
  const attempts = await sql<{ user_id: number; waited: number; seconds: number }[]>`
    select user_id, waited_seconds as waited, gpu_seconds as seconds
    from attempts
    where id > ${before?.id} and outcome = 'success'
  `;
  const secondsOf = (user: number) =>
    attempts.filter(({ user_id }) => user_id === user).reduce((sum, { seconds }) => sum + seconds, 0);
  for (const { user_id, waited } of attempts) if (user_id === 2) waits.push(waited * 1000);
  const share = secondsOf(2) / (secondsOf(1) + secondsOf(2));
  const longest = Math.max(...waits) / runMs;
  process.stdout.write(
    `one task beside 1000 of another user: waits ${describeTimes(waits)}, at most ${longest.toFixed(2)} of a task's ` +
      `${runMs} ms; it has ${(100 * share).toFixed(0)} % of the GPU-seconds, one slot is ${100 / engineCount} %\n`,
  );
}

function takeGaps(): number[] {
  return engines.flatMap((engine) => engine.gaps.splice(0));
}

/** @returns tasks a second, while so many wait */
async function throughput(waiting: number, to = measured): Promise<number> {
  await insertBacklog(waiting, users);
  const [before] = await sql`select coalesce(max(id), 0) as id from attempts`;
  await resume();
  const from = to / 10;
  await until(async () => {
    const [row] = await sql`select count(*) from attempts where id > ${before?.id} and outcome is not null`;
    return Number(row?.count) >= to;
  });
  const [row] = await sql`
    select ${to - from} / extract(epoch from max(ended_at) - min(ended_at)) as rate
    from (
      select ended_at from attempts where id > ${before?.id} and outcome = 'success'
      order by ended_at offset ${from} limit ${to - from}
    ) a
  `;
  return Number(row?.rate);
}

/** Tasks of one picture each, of so many users in turn; the pool is paused. */
async function insertBacklog(waiting: number, ofUsers: number): Promise<void> {
  await sql`update pool set is_paused = true, paused_at = now()`;
  await insertWaiting(
    sql,
    () => sql`
      insert into tasks (name, type, status, base_model, params, user_id, waiting_at)
      select 'task', 'infer', 'waiting', 'SD1.5', '{"width": 64, "height": 64, "scheduler": "K_EULER"}',
        1 + n % ${ofUsers}::int, now() - (${waiting} - n) * interval '1 millisecond'
      from generate_series(1, ${waiting}::int) n
    `,
  );
  await sql`
    insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
      status, user_id, task_id)
    select 'image', 64, 64, 'x', 1, 7, 'K_EULER', id, 'SD1.5', 'waiting', user_id, id from tasks where status = 'waiting'
  `;
  await sql`select fold_counts()`;
}

async function resume(): Promise<void> {
  await sql`update pool set is_paused = false, paused_at = null`;
  await sql`select pg_notify('pool', '')`;
}

async function clear(): Promise<void> {
  await sql`update pool set is_paused = true, paused_at = now()`;
  await until(async () => {
    const [row] = await sql`select count(*) from leases`;
    return row?.count === 0;
  });
  await sql`truncate tasks, images cascade`;
  await sql`update pool set is_paused = false, paused_at = null`;
}

/** Jobs that do nothing, by the queue alone, with as many at once as there are slots. */
async function bareQueue(): Promise<number> {
  const jobs = 1_000;
  await sql`select graphile_worker.add_job('nothing', '{}') from generate_series(1, ${jobs}::int)`;
  const done = Promise.withResolvers<void>();
  let count = 0;
  const started = performance.now();
  const runner = await run({
    connectionString: database.url,
    concurrency: engineCount,
    noHandleSignals: true,
    taskList: {
      nothing: () => {
        count += 1;
        if (count === jobs) done.resolve();
      },
    },
    logger: new Logger(() => () => {}),
  });
  await done.promise;
  const rate = (jobs * 1000) / (performance.now() - started);
  await runner.stop();
  return rate;
}

async function post(path: string, body: object, as = token): Promise<void> {
  const headers = { Authorization: `Bearer ${as}`, "Content-Type": "application/json" };
  const answer = await fetch(`${api}/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.status !== 201) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  await answer.arrayBuffer();
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await Bun.sleep(20);
}

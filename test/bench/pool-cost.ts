/**
 * `bun run bench pool`, fourth part: what a task costs the database from its POST to its end, in statements of ours and in
 * commits, beside the commits of an empty job of graphile-worker. What the API and the worker do without any task is
 * taken off.
 */
import { Logger, run } from "graphile-worker";
import { pino } from "pino";
import { startWorker } from "../../jobs/index.ts";
import { connect } from "../../src/db/client.ts";
import { temporaryDirectory } from "../../src/storage/index.ts";
import { createWebhookGuard } from "../../src/webhooks/guard.ts";
import { ComfyuiDouble } from "../helpers/comfyui-double.ts";
import { freshDatabase } from "../helpers/database.ts";
import { openBenchApp } from "./app.ts";

const tasks = Number(process.env.BENCH_POSTS ?? 100);
const empty = 500;

const database = await freshDatabase();
/** Statements of this process's own, each of which is a commit. */
let asked = 0;
const sql = connect(database.url, {
  max: 1,
  name: "atelier bench",
  onStatement() {
    asked += 1;
  },
});
await sql`insert into users (name, email, password_hash, admin) values ('user', 'user@example.com', 'x', true)`;
const engine = new ComfyuiDouble();
await measure(0, true); // the server is made known and probed
const idle = await measure(0);
const busy = await measure(tasks);
const per = (kind: "statements" | "commits") => (busy[kind] - idle[kind]) / tasks;
const bare = (await commitsDuring(() => bareJobs(empty))) - (await commitsDuring(() => bareJobs(0)));
process.stdout.write(
  `a picture's task: ${per("statements").toFixed(1)} statements, ${per("commits").toFixed(1)} commits; an empty job of ` +
    `graphile-worker: ${(bare / empty).toFixed(1)} commits, ratio ${(per("commits") / (bare / empty)).toFixed(1)}\n`,
);
await sql.end({ timeout: 1 });
await engine.stop();
await database.drop();
process.exit(0);

/** An API and a worker from their start to their stop, with so many tasks between. */
async function measure(count: number, isFirst = false): Promise<{ statements: number; commits: number }> {
  let statements = 0;
  const onStatement = () => {
    statements += 1;
  };
  const commits = await commitsDuring(async () => {
    const app = openBenchApp(database.url, { onStatement });
    const { config, secrets, storage } = app;
    const worker = await startWorker(
      {
        sql: app.sql,
        secrets,
        storage,
        log: pino({ level: "error" }),
        webhooks: createWebhookGuard(config.webhookNetworks),
        temporaryDirectory: temporaryDirectory(config),
      },
      { databaseUrl: database.url, concurrency: 4, maxRunning: config.maxRunningPerUser },
    );
    const token = await app.logIn(1, true);
    const post = async (path: string, body: object) => {
      const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
      const request = new Request(`http://atelier.test/api/${path}`, {
        method: "POST",
        headers,
        body: JSON.stringify(body),
      });
      const answer = await app.fetch(request);
      if (answer.status !== 201) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    };
    if (isFirst) {
      const { port } = engine.target;
      await post("servers", { name: "engine", type: "infer", engine: "comfyui", ip: "127.0.0.1", port });
      await until(async () => (await sql`select from servers where status = 'ready'`).length > 0);
    }
    for (let n = 0; n < count; n += 1) {
      await post("images", { prompt: `picture ${n}`, width: 64, height: 64, num_inference_steps: 1 });
    }
    await until(async () => (await sql`select from tasks where status <> 'success'`).length === 0);
    await worker.stop();
    await app.stop();
  });
  return { statements, commits };
}

/** Of this database, those of the bench's own connection apart; every other connection must have ended by then. */
async function commitsDuring(work: () => Promise<void>): Promise<number> {
  const before = await commits();
  await work();
  await until(async () => {
    const [row] = await sql`select count(*) from pg_stat_activity
      where datname = current_database() and backend_type = 'client backend'
    `;
    return row?.count === 1;
  });
  return (await commits()) - before;
}

async function commits(): Promise<number> {
  await sql`select pg_stat_force_next_flush()`;
  await sql`select`;
  const [row] = await sql`select xact_commit as count from pg_stat_database where datname = current_database()`;
  return Number(row?.count) - asked;
}

async function bareJobs(count: number): Promise<void> {
  const done = Promise.withResolvers<void>();
  let left = count;
  const runner = await run({
    connectionString: database.url,
    concurrency: 4,
    noHandleSignals: true,
    taskList: {
      nothing: () => {
        left -= 1;
        if (left === 0) done.resolve();
      },
    },
    logger: new Logger(() => () => {}),
  });
  for (let n = 0; n < count; n += 1) await sql`select graphile_worker.add_job('nothing', '{}')`;
  if (count > 0) await done.promise;
  await runner.stop();
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await Bun.sleep(50);
}

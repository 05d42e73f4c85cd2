/**
 * `bun run bench pool`, second part: what it costs to ask how the pool stands while very much waits there. Rows alone, one
 * request at a time. `at once` is asked right after the one before; `afresh` by an app that has not looked yet.
 */
import { freshDatabase } from "../helpers/database.ts";
import { openBenchApp } from "./app.ts";
import { quantile } from "./figures.ts";
import { printTable } from "./measure.ts";
import { insertLargePool } from "./pool-rows.ts";

const turns = Number(process.env.BENCH_TURNS ?? 7);

const database = await freshDatabase();
const first = openBenchApp(database.url);
await insertLargePool(first.sql);
const { sql } = first;
const [mine] = await sql<{ user_id: number }[]>`
  select user_id from tasks group by 1 order by count(*) desc limit 1
`;
const [last] = await sql<{ id: number }[]>`
  select id from tasks where user_id <> ${mine?.user_id ?? 0} order by waiting_at desc limit 1
`;
const admin = await first.logIn(5, true);
const owner = await first.logIn(mine?.user_id ?? 0, false);
await first.stop();

const questions = [
  { path: "/api/tasks?status=waiting&pageSize=20", token: admin },
  { path: "/api/tasks?status=waiting&pageSize=200", token: admin },
  { path: "/api/tasks?status=waiting&pageSize=200&order=desc", token: owner },
  { path: `/api/tasks/${last?.id}`, token: admin },
  { path: `/api/tasks/${last?.id}/why`, token: admin },
  { path: "/api/stats", token: admin },
];
const rows: string[][] = [];
for (const { path, token } of questions) {
  const afresh: number[] = [];
  const again: number[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    const app = openBenchApp(database.url);
    await app.sql`select`;
    await app.get("/api/account", token);
    for (const times of [afresh, again]) {
      const started = performance.now();
      await app.get(path, token);
      times.push(performance.now() - started);
    }
    await app.stop();
  }
  const who = token === admin ? "an admin" : "the user of most";
  const name = path.replace(String(last?.id), "{id}");
  rows.push([
    `GET ${name} by ${who}`,
    ...[again, afresh].flatMap((times) => [0.5, 0.95].map((share) => `${quantile(times, share).toFixed(1)} ms`)),
  ]);
}
printTable(["100,000 waiting", "at once", "p95", "afresh", "p95"], rows);
await database.drop();
process.exit(0);

/**
 * `bun run bench memory`: the resident memory of one API process under a million requests of many kinds, as many
 * callers send them. It must level off: what each request leaves behind would show.
 */
import { resolve } from "node:path";
import { openBenchApp } from "./app.ts";
import { seededDatabase } from "./database.ts";
import { printTable } from "./measure.ts";

const requests = Number(process.env.BENCH_REQUESTS ?? 1_000_000);
const steps = 10;
const parallel = 16;
const size = 10_000;

const [kind, databaseUrl = "", ownerToken = "", adminToken = ""] = process.argv.slice(2);
if (kind === "serve") serve(databaseUrl, ownerToken, adminToken);
else await watch();

async function watch(): Promise<void> {
  const url = await seededDatabase(size);
  const app = openBenchApp(url);
  const tokens = [await app.logIn(1, false), await app.logIn(2, true)];
  await app.stop();
  const child = Bun.spawn([process.execPath, resolve(import.meta.filename), "serve", url, ...tokens], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const table: string[][] = [];
  let pending = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    pending += decoder.decode(chunk, { stream: true });
    const lines = pending.split("\n");
    pending = lines.pop() ?? "";
    for (const line of lines) {
      process.stderr.write(`${line} MB\n`);
      table.push(line.split(" "));
    }
  }
  if ((await child.exited) !== 0) process.exit(1);
  process.stdout.write(`\nResident memory of the API after so many requests, ${parallel} at once.\n`);
  printTable(["requests", "MB"], table);
  process.exit(0);
}

/** Asks itself: a client of its own would only take the processor away. */
async function serve(databaseUrl: string, owner: string, admin: string): Promise<void> {
  const app = openBenchApp(databaseUrl);
  let sent = 0;
  const ask = async (end: number) => {
    while (sent < end) {
      const n = sent++;
      const token = [null, owner, admin][n % 3] as string | null;
      const page = 1 + (n % 40);
      const paths = [
        `/api/images/${1 + (n % size)}`,
        `/api/images?page=${page}`,
        `/api/images?user_id=${1 + (n % 500)}&page=${page}`,
        `/api/models?tag=tag ${1 + (n % 200)}&sort=hot`,
        `/api/images?search=word${n % 5000}`,
        `/api/images?colour=${n}`,
      ];
      // Mostly what is asked for most; the answer's status does not matter here.
      const path = paths[n % 10 < 6 ? 0 : n % paths.length] as string;
      const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
      await (await app.fetch(new Request(`http://atelier.test${path}`, { headers }))).arrayBuffer();
    }
  };
  for (let step = 0; step <= steps; step += 1) {
    const end = Math.round((requests * step) / steps);
    await Promise.all(Array.from({ length: parallel }, () => ask(end)));
    Bun.gc(true);
    process.stdout.write(`${end} ${(process.memoryUsage.rss() / 1024 / 1024).toFixed(0)}\n`);
  }
  process.exit(0);
}

/**
 * `bun run bench throughput`: details and lists as a share of what a bare Bun handler makes of the same SQL without
 * authentication, validation and views (with a token: one that looks the token up too), and of what pgbench does, where
 * it is installed. The statements are those that our API sends, noted while it answers once. All are asked in turns, so
 * that what else the machine does meets each; clients, servers and PostgreSQL share its cores.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { connect } from "../../src/db/client.ts";
import { openBenchApp } from "./app.ts";
import { seededDatabase } from "./database.ts";
import { median, printTable } from "./measure.ts";

const rows = Number(process.env.BENCH_ROWS ?? 1_000_000);
const seconds = Number(process.env.BENCH_SECONDS ?? 2);
const turns = Number(process.env.BENCH_TURNS ?? 5);
const parallel = 16;

interface Statement {
  text: string;
  values: unknown[];
}

/** What one request sends: the token's look-up first, when there is one. */
type Script = Statement[];

const [kind, databaseUrl = "", scripts = ""] = process.argv.slice(2);
if (kind === "ours") serveOurs(databaseUrl);
else if (kind === "bare") serveBare(databaseUrl, JSON.parse(scripts));
else await compare();

async function compare(): Promise<void> {
  const url = await seededDatabase(rows);
  const noted: Script = [];
  const app = openBenchApp(url, { onStatement: (text, values) => noted.push({ text, values }) });
  const token = await app.logIn(1, false);
  const [row] = await app.sql<{ id: number }[]>`select min(id) as id from images where public`;
  const cases = [
    { name: "detail, guest", path: `/api/images/${row?.id}`, token: "" },
    { name: "detail, token", path: `/api/images/${row?.id}`, token },
    { name: "list of 20, guest", path: "/api/images", token: "" },
    { name: "list of 20, token", path: "/api/images", token },
  ];
  const requests: Record<string, Script> = {};
  for (const { path, token } of cases) {
    await app.get(path, token);
    noted.splice(0);
    await app.get(path, token);
    requests[`${path} ${token}`] = noted.splice(0);
  }
  await app.stop();

  const ours = await start("ours", url);
  const bare = await start("bare", url, JSON.stringify(requests));
  const hasPgbench = Bun.which("pgbench") !== null;
  const table: string[][] = [];
  for (const { name, path, token } of cases) {
    const script = requests[`${path} ${token}`] ?? [];
    const figures: { ours: number; bare: number; pgbench: number }[] = [];
    // The first turn warms all of them up and does not count.
    for (let turn = 0; turn <= turns; turn += 1) {
      const figure = {
        ours: await load(ours.port, path, token),
        bare: await load(bare.port, path, token),
        pgbench: hasPgbench ? await pgbench(url, script) : Number.NaN,
      };
      if (turn > 0) figures.push(figure);
    }
    const rate = (of: keyof (typeof figures)[number]) => format(median(figures.map((figure) => figure[of])), 0);
    const share = (of: "bare" | "pgbench") => format(median(figures.map((figure) => figure.ours / figure[of])), 2);
    table.push([name, rate("ours"), rate("bare"), share("bare"), rate("pgbench"), share("pgbench")]);
  }
  process.stdout.write(
    `\nRequests a second, medians of ${turns} turns of ${seconds} s, ${parallel} at once, ${rows} images; shares turn by turn.\n`,
  );
  printTable(["request", "ours", "bare Bun", "share", "pgbench", "share"], table);
  for (const server of [ours, bare]) server.process.kill();
  process.exit(0);
}

function format(value: number, digits: number): string {
  return Number.isNaN(value) ? "–" : value.toFixed(digits);
}

async function start(kind: string, ...rest: string[]) {
  const child = Bun.spawn([process.execPath, import.meta.filename, kind, ...rest], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.getReader().read();
  return { process: child, port: Number(new TextDecoder().decode(value)) };
}

async function load(port: number, path: string, token: string): Promise<number> {
  const url = `http://127.0.0.1:${port}${path}`;
  const program = resolve(import.meta.dirname, "load.ts");
  const client = Bun.spawn([process.execPath, program, url, String(seconds), String(parallel), token]);
  return Number(await new Response(client.stdout).text());
}

function serve(fetch: (request: Request) => Response | Promise<Response>): void {
  process.stdout.write(String(Bun.serve({ port: 0, hostname: "127.0.0.1", fetch }).port));
}

function serveOurs(databaseUrl: string): void {
  serve(openBenchApp(databaseUrl).fetch);
}

function serveBare(databaseUrl: string, requests: Record<string, Script>): void {
  const sql = connect(databaseUrl, { max: 8, name: "bare" });
  const run = ({ text, values }: Statement) => sql.unsafe(text, values as never[], { prepare: true });
  serve(async (request) => {
    const path = request.url.slice(request.url.indexOf("/", 8));
    const token = request.headers.get("authorization")?.slice("Bearer ".length) ?? "";
    const script = requests[`${path} ${token}`] ?? [];
    if (token) await run(script[0] as Statement);
    const answers = await Promise.all(script.slice(token ? 1 : 0).map(run));
    const [count] = answers.find(([row]) => row?.total !== undefined) ?? [];
    const objects = answers.flatMap((rows) => rows.flatMap((row) => row.json ?? [])).join();
    const body = count ? `{"page":1,"page_size":20,"total":${count.total},"next":true,"list":[${objects}]}` : objects;
    return new Response(body, { headers: { "Content-Type": "application/json" } });
  });
}

/** Transactions a second; the values are written into the statements, which are prepared. */
async function pgbench(url: string, script: Script): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "atelier-pgbench-"));
  const file = join(directory, "script.sql");
  const lines = script.map(({ text, values }) => {
    const literal = (_all: string, n: string) => toLiteral(values[Number(n) - 1]);
    const written = text.replaceAll(/\s+/g, " ").replaceAll(/\$(\d+)/g, literal);
    // pgbench takes `:MI` in a format for a variable of its own; the parts are put together once, when it is planned.
    return `${written.replaceAll(/(?<!:):(?=[A-Za-z])/g, "'||':'||'").trim()};\n`;
  });
  writeFileSync(file, lines.join(""));
  const options = ["-n", "-M", "prepared", "-c", String(parallel), "-j", "2", "-T", String(seconds), "-f", file];
  const child = Bun.spawn(["pgbench", ...options, url], { stderr: "pipe" });
  const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  rmSync(directory, { recursive: true });
  const [, tps] = /tps = ([\d.]+) \(without/.exec(out) ?? [];
  // On a machine that is too busy it says nothing of a second without any.
  if (!tps && !/processed: 0\b/.test(out)) throw new Error(`pgbench: ${errors}`);
  return Number(tps ?? 0);
}

function toLiteral(value: unknown): string {
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return value === null ? "null" : `'${String(value).replaceAll("'", "''")}'`;
}

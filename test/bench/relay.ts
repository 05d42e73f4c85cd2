/**
 * `bun run bench relay`: what watching costs, against a bare Bun server that publishes the same bytes; and what announcing
 * costs the writers, against the same writers unannounced. On a database that flushes its log, as a real one does.
 * `bun run bench idle` is its first part alone: the memory of sockets.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { connect, type Sql } from "../../src/db/client.ts";
import { startEmbedded } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { Child } from "./child.ts";

const idle = Number(process.env.BENCH_IDLE ?? 10_000);
const watchers = Number(process.env.BENCH_WATCHERS ?? 5_000);
const objects = Number(process.env.BENCH_OBJECTS ?? 2_000);
const rounds = Number(process.env.BENCH_ROUNDS ?? 15);
const seconds = Number(process.env.BENCH_SECONDS ?? 4);
const commitsPerSecond = 500;

const directory = mkdtempSync(join(tmpdir(), "atelier-bench-"));
chmodSync(directory, 0o711);
const database = await startEmbedded({ directory });
await migrate(database.url);
const sql = connect(database.url, { max: 8, name: "bench" });
await sql`insert into users (name, email, password_hash) values ('bench', 'bench@example.com', 'x')`;
await sql`
  insert into datasets (name, public, user_id) select 'change 0', true, 1 from generate_series(1, ${objects}::int)
`;
await sql`
  insert into tasks (name, type, base_model, user_id) select 'task', 'infer', 'SD1.5', 1 from generate_series(1, 2000)
`;

const results: string[][] = [];
const environment = {
  DATABASE_URL: database.url,
  DATA_DIR: join(directory, "api"),
  PORT: "0",
  LOG_LEVEL: "error",
  SOCKETS_PER_ADDRESS: "0",
  RATE_LIMIT_READS: "0",
};
const servers = {
  ours: await startServer("ours"),
  bare: await startServer("bare"),
};
type Kind = keyof typeof servers;

const parts = { idle: measureIdle, fan: measureFanOut, many: measureMany, writers: measureWriters };
const [wanted] = process.argv.slice(2);
for (const [name, measure] of Object.entries(parts)) if (!wanted || wanted === name) await measure();
for (const { child } of Object.values(servers)) await child.stop();

const widths = [40, 20, 20, 7];
const lines = [["", "bare", "ours", "ratio"], ...results];
for (const line of lines) process.stdout.write(`${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")}\n`);
await sql.end({ timeout: 1 });
await database.stop();
rmSync(directory, { recursive: true, force: true });
process.exit(0);

async function startServer(kind: string) {
  const child = new Child([resolve(import.meta.dirname, "relay-server.ts"), kind], environment);
  const port = await child.line();
  return { child, url: `127.0.0.1:${port}${kind === "ours" ? "/api/datasets" : ""}` };
}

async function openClients(kind: Kind, count: number, spread: number): Promise<Child> {
  const clients = new Child([
    resolve(import.meta.dirname, "relay-clients.ts"),
    `ws://${servers[kind].url}`,
    String(count),
    String(spread),
  ]);
  await clients.line();
  return clients;
}

/** Makes a change that its text names, and says when it was there to be told. */
async function change(kind: Kind, object: number, number: number): Promise<number> {
  const name = `change ${number}`;
  if (kind === "ours") {
    await sql`update datasets set name = ${name} where id = ${object}`;
    return performance.timeOrigin + performance.now();
  }
  const now = new Date().toISOString();
  const data = { name, updated_at: now };
  const body = JSON.stringify({ type: "update", name: "datasets", id: object, version: number, data });
  return Number(await (await fetch(`http://${servers.bare.url}/${object}`, { method: "POST", body })).text());
}

/** Plain requests, so many, that leave nothing behind. */
async function request(kind: Kind, count: number): Promise<void> {
  let next = 0;
  const ask = async () => {
    while (next < count) {
      next += 1;
      await (await fetch(`http://${servers[kind].url}/${1 + (next % objects)}`)).arrayBuffer();
    }
  };
  await Promise.all(Array.from({ length: 50 }, ask));
}

type Arrivals = Map<number, { times: number; lastAt: number }>;
async function arrivalsOf(clients: Child): Promise<Arrivals> {
  return new Map(JSON.parse(await clients.ask()));
}

async function measureIdle(): Promise<void> {
  const bytes: Partial<Record<Kind, number>> = {};
  for (const kind of ["bare", "ours"] as const) {
    const { child } = servers[kind];
    // What the first requests cost is code, pools and room for garbage, which a server that is in use has already.
    await (await openClients(kind, 500, objects)).stop();
    await request(kind, 2 * idle);
    const before = Number(await child.ask());
    const clients = await openClients(kind, idle, objects);
    await Bun.sleep(2_000);
    bytes[kind] = (Number(await child.ask()) - before) / idle;
    await clients.stop();
  }
  report(`memory of ${idle} idle sockets, each`, bytes, (value) => `${(value / 1024).toFixed(1)} KB`);
}

async function measureFanOut(): Promise<void> {
  const delays: Record<Kind, number[]> = { bare: [], ours: [] };
  const clients = { bare: await openClients("bare", watchers, 1), ours: await openClients("ours", watchers, 1) };
  for (let round = 1; round <= rounds; round += 1) {
    for (const kind of ["bare", "ours"] as const) {
      const at = await change(kind, 1, round);
      let told: { times: number; lastAt: number } | undefined;
      do {
        await Bun.sleep(300);
        told = (await arrivalsOf(clients[kind])).get(round);
      } while ((told?.times ?? 0) < watchers);
      delays[kind].push((told?.lastAt ?? 0) - at);
    }
  }
  for (const share of [0.5, 0.99]) {
    const bare = quantile(delays.bare, share);
    report(`commit to the last of ${watchers}, p${share * 100}`, { bare, ours: quantile(delays.ours, share) }, ms);
  }
  for (const child of Object.values(clients)) await child.stop();
}

async function measureMany(): Promise<void> {
  const rates: Partial<Record<Kind, number>> = {};
  const delays: Record<Kind, number[]> = { bare: [], ours: [] };
  for (const kind of ["bare", "ours"] as const) {
    const clients = await openClients(kind, objects, objects);
    const sentAt = new Map<number, number>();
    const started = performance.now();
    const total = commitsPerSecond * seconds;
    await pace(total, 16, async (number) => {
      sentAt.set(number, await change(kind, 1 + (number % objects), 1_000 + number));
    });
    const took = (performance.now() - started) / 1_000;
    await Bun.sleep(1_000);
    const arrivals = await arrivalsOf(clients);
    for (const [number, at] of sentAt) {
      const told = arrivals.get(1_000 + number);
      if (told) delays[kind].push(told.lastAt - at);
    }
    rates[kind] = arrivals.size / took;
    await clients.stop();
  }
  report(`${objects} objects at ${commitsPerSecond}/s: told a second`, rates, (value) => value.toFixed(0), true);
  const medians = { bare: quantile(delays.bare, 0.5), ours: quantile(delays.ours, 0.5) };
  results.push(["  a change's way, p50", ms(medians.bare), ms(medians.ours), ""]);
  results.push(["  a change's way, p99", ms(quantile(delays.bare, 0.99)), ms(quantile(delays.ours, 0.99)), ""]);
}

/** Writers as workers are: progress, with the announcement off, ours, and as a notification in each transaction. */
async function measureWriters(): Promise<void> {
  await sql.unsafe(`
    create function announce_plainly() returns trigger language plpgsql as $$
    begin
      perform pg_notify('plain', tg_table_name || ' ' || (select string_agg(id::text, ',') from changed));
      return null;
    end $$;
    create trigger z_plain after update on tasks referencing new table as changed
      for each statement execute function announce_plainly();
    create procedure write(loops int, seed int) language plpgsql as $$
    begin
      for i in 1..loops loop
        update tasks set progress = (progress + 1) % 100 where id = 1 + (seed * 131 + i * 17) % 2000;
        commit;
      end loop;
    end $$;
  `);
  const ways = { off: [false, false], ours: [true, false], plain: [false, true] } as const;
  const server = await startServer("ours"); // somebody listens
  const listener = await sql.listen("plain", () => {});
  const pool = Array.from({ length: 16 }, () => connect(database.url, { max: 1, name: "writer" }));
  const none = (): Record<keyof typeof ways, number[]> => ({ off: [], ours: [], plain: [] });
  const figures = { latency: none(), rate: none() };
  const use = async ([ours, plain]: readonly [boolean, boolean]) => {
    await sql.unsafe(`alter table tasks ${ours ? "enable" : "disable"} trigger z_announce_update`);
    await sql.unsafe(`alter table tasks ${plain ? "enable" : "disable"} trigger z_plain`);
  };
  // Short turns one after the other: what else the machine does meanwhile meets all three.
  for (let round = 0; round < 12; round += 1) {
    const turns = Object.keys(ways) as (keyof typeof ways)[];
    for (const way of round % 2 ? turns.reverse() : turns) {
      await use(ways[way]);
      const latencies: number[] = [];
      await pace(commitsPerSecond, 16, async (number) => {
        const writer = pool[number % pool.length] as Sql;
        const started = performance.now();
        await writer`update tasks set progress = (progress + 1) % 100 where id = ${1 + (number % 2000)}`;
        latencies.push(performance.now() - started);
      });
      figures.latency[way].push(quantile(latencies, 0.5));
      const loops = way === "plain" ? 50 : 400;
      const started = performance.now();
      await Promise.all(pool.map((writer, i) => writer.unsafe(`call write(${loops}, ${i})`)));
      figures.rate[way].push((loops * pool.length * 1_000) / (performance.now() - started));
    }
  }
  const row = (what: string, { off, ...on }: Record<keyof typeof ways, number[]>, print: typeof ms, isRate = false) => {
    for (const way of ["ours", "plain"] as const) {
      const ratios = on[way].map((value, round) => (isRate ? value / (off[round] ?? 0) : (off[round] ?? 0) / value));
      results.push([
        `${what}, ${way === "ours" ? "announced" : "plain NOTIFY"}`,
        print(quantile(off, 0.5)),
        print(quantile(on[way], 0.5)),
        quantile(ratios, 0.5).toFixed(2),
      ]);
    }
  };
  results.push(["", "unannounced", "announced", "ratio"]);
  row(`commit at ${commitsPerSecond}/s, p50`, figures.latency, ms);
  row("commits/s of 16 writers", figures.rate, (value) => value.toFixed(0), true);
  await listener.unlisten();
  for (const writer of pool) await writer.end({ timeout: 1 });
  await server.child.stop();
}

/** Does something so many times at the rate, and at most `parallel` of them at once. */
async function pace(total: number, parallel: number, work: (number: number) => Promise<void>): Promise<void> {
  const started = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      while (next < total) {
        const number = next;
        next += 1;
        const early = started + (number * 1_000) / commitsPerSecond - performance.now();
        if (early > 0) await Bun.sleep(early);
        await work(number);
      }
    }),
  );
}

function report(
  what: string,
  { bare = 0, ours = 0 }: Partial<Record<Kind, number>>,
  print: (value: number) => string,
  isMoreBetter = false,
): void {
  results.push([what, print(bare), print(ours), (isMoreBetter ? ours / bare : bare / ours).toFixed(2)]);
}

function quantile(list: number[], share: number): number {
  return list.toSorted((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))] ?? 0;
}

function ms(value: number): string {
  return `${value.toFixed(value < 10 ? 2 : 1)} ms`;
}

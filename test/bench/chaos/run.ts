/** One chaos run: users order and watch while everything dies at random; then the books are checked. */
import { randomFrom } from "../../helpers/random.ts";
import { createClients, planOrders } from "./clients.ts";
import { createHavoc } from "./havoc.ts";
import { judge, type Verdict } from "./judge.ts";
import { startSystem } from "./system.ts";
import { createWatchers } from "./watchers.ts";

export interface ChaosOptions {
  seed: number;
  tasks: number;
  users: number;
  engines: { train: number; infer: number };
  workers: number;
  stepMs: number;
  /** Between two blows. */
  pauseMs: { min: number; max: number };
  /** Also what takes long to recover from: a worker frozen past its lease, a database that crashes. */
  hardest: boolean;
  /** So many blows and no more. */
  blows: number;
  /** For all orders to end; what has not by then is a breach. */
  limitMs: number;
  say?: (line: string) => void;
}

export interface ChaosReport extends Verdict {
  seconds: number;
  struck: Record<string, number>;
  frames: number;
  /** Where everything lies, kept when there are breaches. */
  directory: string;
}

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { say = () => {} } = options;
  const random = randomFrom(options.seed);
  const system = await startSystem(options);
  let keep = true;
  try {
    const startedAt = Date.now();
    const clients = createClients(system.url);
    const users = await Promise.all(Array.from({ length: options.users }, (_, i) => clients.signUp(`user${i}`)));
    const orders = planOrders(users, options.tasks, random);
    const watchers = createWatchers(system.url);
    // A generator of its own: how the answers are timed must not change which blows fall.
    const havoc = createHavoc(system, randomFrom(options.seed + 1), options);

    const waiting = orders.values();
    const change = randomFrom(options.seed + 2);
    const post = async () => {
      for (const order of waiting) {
        await clients.place(order);
        watchers.watch(order);
        if (change.next() < 0.06) setTimeout(() => clients.cancel(order), change.between(0, 3_000));
        await Bun.sleep(change.between(0, 60));
      }
    };
    await Promise.all(Array.from({ length: 8 }, post));
    say(`${orders.length} tasks are placed after ${seconds(startedAt)} s`);

    const patience = startedAt + options.limitMs;
    for (let looks = 1; Date.now() < patience; looks += 1) {
      await Bun.sleep(1_000);
      const left = await countUnfinished(system.sql);
      if (left === 0) break;
      if (left !== null && looks % 10 === 0) say(`${left} tasks have not ended after ${seconds(startedAt)} s`);
    }
    await havoc.stop();
    const verdict = await judge(system, orders);
    watchers.stop();
    const breaches = [...verdict.breaches, ...watchers.breaches];
    keep = breaches.length > 0;
    return {
      ...verdict,
      breaches,
      seconds: seconds(startedAt),
      struck: Object.fromEntries(havoc.struck),
      frames: watchers.frames(),
      directory: system.directory,
    };
  } finally {
    await system.stop({ keep });
  }
}

function seconds(since: number): number {
  return Math.round((Date.now() - since) / 1_000);
}

/** Null while the database is away. */
async function countUnfinished(sql: Awaited<ReturnType<typeof startSystem>>["sql"]): Promise<number | null> {
  try {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int as count from tasks where finished_at is null
    `;
    return row?.count ?? 0;
  } catch {
    return null;
  }
}

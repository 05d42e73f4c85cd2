/** Random deaths and restarts, one after the other, until it is told to stop; then everything runs again. */
import type { Random } from "../../helpers/random.ts";
import type { ChaosOptions } from "./run.ts";
import type { Program, System } from "./system.ts";

export interface Blow {
  name: string;
  /** How often it is chosen, relative to the others. */
  weight: number;
  strike: () => Promise<void>;
}

/** Longer than a worker's lease: whoever wakes after it holds nothing any more and must write nothing. */
const freezeMs = 13_000;

export function createHavoc(
  system: System,
  random: Random,
  { pauseMs, hardest, blows: limit }: Pick<ChaosOptions, "pauseMs" | "hardest" | "blows">,
) {
  const struck = new Map<string, number>();
  /** What goes on beside the next blows. */
  const pending = new Set<Promise<void>>();
  let isOver = false;

  const later = (work: () => Promise<void>) => {
    const promise = work().finally(() => pending.delete(promise));
    pending.add(promise);
  };
  const downtime = () => Bun.sleep(random.between(200, 2_500));
  const runs = (programs: readonly Program[]) => programs.filter((one) => one.isRunning);
  const end = async (programs: readonly Program[], signal: "SIGKILL" | "SIGTERM") => {
    const one = random.pick(runs(programs));
    if (!one) return;
    later(async () => {
      await one.end(signal);
      await downtime();
      one.start();
    });
  };
  const freeze = async (programs: readonly Program[], ms: number) => {
    const one = random.pick(runs(programs));
    if (one) later(() => one.freeze(ms));
  };

  /** See src/demo-engine/faults.ts; what strikes requests strikes any, what strikes prompts the next one's step. */
  const harm = async (url: string) => {
    const kinds = [
      "refuse",
      "error",
      "late",
      "drop",
      "drop-socket",
      "out-of-memory",
      "fail",
      "duplicate",
      "wrong-file",
    ];
    const path = random.pick(["/prompt", "/history", "/queue", "/view", "/object_info"]);
    const fault = { kind: random.pick(kinds), path, step: random.between(0, 6), ms: random.between(500, 3_000) };
    // It may be dead just now.
    await fetch(`${url}/faults`, {
      method: "POST",
      body: JSON.stringify(fault),
      signal: AbortSignal.timeout(2_000),
    }).catch(() => null);
  };

  const blows: Blow[] = [
    { name: "a worker is killed", weight: 30, strike: () => end(system.workers, "SIGKILL") },
    { name: "a worker is told to stop", weight: 10, strike: () => end(system.workers, "SIGTERM") },
    {
      name: "a worker is frozen past its lease",
      weight: hardest ? 4 : 0,
      strike: () => freeze(system.workers, freezeMs),
    },
    { name: "an engine is killed", weight: 20, strike: () => end(system.engines, "SIGKILL") },
    { name: "an engine falls silent for a while", weight: 8, strike: () => freeze(system.engines, 3_000) },
    { name: "the API is killed", weight: 10, strike: () => end([system.api], "SIGKILL") },
    { name: "the API is told to stop", weight: 4, strike: () => end([system.api], "SIGTERM") },
    { name: "an engine gets a fault", weight: 20, strike: () => harm(random.pick(system.engineUrls)) },
    {
      name: "the database's connections are cut",
      weight: 8,
      strike: async () => {
        await system.sql`
          select pg_terminate_backend(pid) from pg_stat_activity
          where pid <> pg_backend_pid() and backend_type = 'client backend' and random() < 0.5
        `;
      },
    },
    {
      name: "PostgreSQL crashes",
      weight: hardest ? 4 : 0,
      strike: async () => {
        await system.database.crash();
        await downtime();
        await system.database.restart();
      },
    },
    { name: "PostgreSQL restarts", weight: 2, strike: () => system.database.restart() },
  ];
  const total = blows.reduce((sum, { weight }) => sum + weight, 0);

  const choose = (): Blow => {
    let left = random.next() * total;
    for (const blow of blows) {
      left -= blow.weight;
      if (left < 0) return blow;
    }
    return blows[0] as Blow;
  };

  const working = (async () => {
    for (let left = limit; left > 0 && !isOver; left -= 1) {
      await Bun.sleep(random.between(pauseMs.min, pauseMs.max));
      if (isOver) break;
      const { name, strike } = choose();
      struck.set(name, (struck.get(name) ?? 0) + 1);
      await strike();
    }
  })();

  return {
    struck,
    /** Lets what is under way end, and starts what is down. */
    async stop(): Promise<void> {
      isOver = true;
      await working;
      while (pending.size > 0) await Promise.all(pending);
      for (const one of [system.api, ...system.workers, ...system.engines]) one.start();
    },
  };
}

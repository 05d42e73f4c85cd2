/**
 * Guesses at passwords are made slow: per email and per address, whatever process they reach. The counts are in
 * PostgreSQL (sql/0021_throttles.sql), apart from the log-in's own transaction, which a wrong password never commits.
 */
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { Gate } from "./gate.ts";
import type { Secrets } from "./secrets.ts";

/** What attempts are counted by. */
export interface Counter {
  /** Anything: only its HMAC is kept. */
  name: string;
  /** Failures without a delay; the next ones wait 1, 2, 4, … seconds, up to five minutes. */
  free: number;
  /** Starts anew after a success. Never for an address: an attacker has an account of its own to reset it with. */
  isReset: boolean;
}

export const guessesAtAccount = (name: string): Counter => ({ name, free: 5, isReset: true });
/** Behind one address may be a whole office, whose members each mistype now and then. */
export const guessesFrom = (network: string): Counter => ({ name: `address ${network}`, free: 10, isReset: false });

/** Attempts of one counter that this process makes at once; the others wait, so that successes are never refused. */
const width = 5;
const maxWaiting = 500;

/**
 * Runs `work`, an attempt that costs a hash, unless one of the counters says to wait. Refusing costs one short query.
 *
 * @param isGuess whether what `work` threw is a wrong guess; anything else (a fault of the body, of ours) counts nothing
 * @throws Problem "too-many-requests" with `Retry-After`; what `work` throws
 */
export async function throttled<T>(
  { sql, secrets }: { sql: Sql; secrets: Secrets },
  counters: Counter[],
  work: () => Promise<T>,
  isGuess: (error: unknown) => boolean,
): Promise<T> {
  const keys = counters.map(({ name }) => secrets.digest("throttle", name).toString("base64url"));
  return inLanes(sql, keys, async (lanes) => {
    const settled = await attempt(sql, keys, counters, lanes);
    let isFailed = false;
    let resets: string[] = [];
    try {
      const result = await work();
      resets = keys.filter((_key, i) => counters[i]?.isReset);
      return result;
    } catch (error) {
      isFailed = isGuess(error);
      throw error;
    } finally {
      try {
        if (!isFailed) await sql`select throttle_forgive(${keys}::text[], ${resets}::text[])`;
      } finally {
        for (const { underway } of lanes) underway.delete(settled.promise);
        settled.resolve();
      }
    }
  });
}

/**
 * Counts the attempt. While others of this process are still under way, one of them may yet succeed and make room.
 * @returns what to resolve when it is settled
 */
async function attempt(sql: Sql, keys: string[], counters: Counter[], lanes: Lane[]) {
  const free = counters.map((counter) => counter.free);
  const settled = Promise.withResolvers<void>();
  for (;;) {
    // One at a time, or one could be refused for another that it does not know of yet.
    for (const { door } of lanes) await door.enter();
    const underway = lanes.flatMap((lane) => [...lane.underway]);
    try {
      const [row] = await sql<{ seconds: number }[]>`
        select throttle_attempt(${keys}::text[], ${free}::int[]) as seconds
      `;
      if (row?.seconds === 0) {
        for (const lane of lanes) lane.underway.add(settled.promise);
        return settled;
      }
      if (underway.length === 0) throw refuse(row?.seconds ?? 1);
    } finally {
      for (const { door } of lanes) door.leave();
    }
    await Promise.race(underway);
  }
}

function refuse(seconds: number): Problem {
  const headers = { "Retry-After": String(seconds) };
  return new Problem("too-many-requests", { detail: `Too many attempts; try again in ${seconds} s`, headers });
}

/** The attempts of this process under one counter: so many at once, and those that have been counted but not settled. */
interface Lane {
  gate: Gate;
  door: Gate;
  underway: Set<Promise<void>>;
}

/** By pool, as two processes have two: they meet in the database alone. */
const lanesOf = new WeakMap<Sql, Map<string, Lane>>();

/** Runs `work` with a place in the lane of each key. All take them in one order, so that nobody waits in a circle. */
async function inLanes<T>(sql: Sql, keys: string[], work: (lanes: Lane[]) => Promise<T>): Promise<T> {
  const known = lanesOf.get(sql) ?? new Map<string, Lane>();
  lanesOf.set(sql, known);
  const entered = new Map<string, Lane>();
  try {
    for (const name of keys.toSorted()) {
      const lane = known.get(name) ?? {
        gate: new Gate(width, maxWaiting),
        door: new Gate(1, width),
        underway: new Set(),
      };
      known.set(name, lane);
      if (!(await lane.gate.enter())) throw refuse(1);
      entered.set(name, lane);
    }
    return await work([...entered.values()]);
  } finally {
    for (const [name, { gate }] of entered) {
      gate.leave();
      if (gate.isIdle) known.delete(name);
    }
  }
}

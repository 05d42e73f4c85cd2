/**
 * Which rows have changed, as writers announce it (sql/0060_announcements.sql). One connection of the process listens for
 * the bell and is asked each second whether it still lives; the notes themselves are read by snapshots, so that a bell
 * that was not heard costs a second and loses nothing.
 */
import type { Logger } from "pino";
import { connect, type Sql } from "../db/client.ts";
import { inTime } from "./in-time.ts";

/** Ids by table; null where any row of the table may have changed. */
export type Changes = Map<string, Set<string> | null>;

/** Between readings at least. */
const restMs = 20;
/** After a reading that found something: writers that did not ring, since one just had, may have committed since. */
const againMs = [25, 100];
/** What had committed a minute ago is forgotten; who has not read for nearly that long may have missed something. */
const missedMs = 45_000;
const forgetMs = 15_000;

export interface ChangesDeps {
  databaseUrl: string;
  /** For reading; the listening connection is another. */
  sql: Sql;
  log: Logger;
  onChanges: (changes: Changes) => void;
  /** After the database was out of reach: anything may have changed. */
  onGap: () => void;
  /** The heartbeat: so long a bell that nobody hears may delay a change. */
  pulseMs?: number;
  /** How long an answer of the database is waited for. */
  patienceMs?: number;
}

/** @returns stops following */
export async function followChanges(deps: ChangesDeps): Promise<() => Promise<void>> {
  const { databaseUrl, sql, log, onChanges, onGap, pulseMs = 1_000, patienceMs = 2_000 } = deps;
  let isStopped = false;
  let hasGap = false;
  /** Whether the line has not been heard to listen yet. */
  let isLineNew = false;
  /** What has been read of. */
  let since = "";
  let readAt = 0;
  /** How often it has looked again since it found something. */
  let looks = againMs.length;
  let reading: Promise<void> | null = null;
  let timer: ReturnType<typeof setTimeout> | null = null;
  let dueAt = Number.POSITIVE_INFINITY;
  let forgotAt = Number.NEGATIVE_INFINITY;

  const open = (): Sql => {
    const opened = connect(databaseUrl, {
      max: 1,
      name: "atelier relay",
      onNotify: () => readSoon(performance.now()),
      onClose() {
        if (isStopped || opened !== line) return;
        hasGap = true;
        isLineNew = true;
        pulseSoon(50);
      },
    });
    return opened;
  };
  let line = open();

  async function read(): Promise<void> {
    const now = performance.now();
    if (now - readAt > missedMs) hasGap = true;
    const [found] = await inTime(
      patienceMs,
      sql<{ snapshot: string; notes: [string, string[] | null][] | null }[]>`
        select pg_current_snapshot()::text as snapshot, (
          select json_agg(json_build_array(name, ids))
          from announcements
          where xid >= pg_snapshot_xmin(${since}::pg_snapshot)
            and not pg_visible_in_snapshot(xid, ${since}::pg_snapshot)
        ) as notes
      `,
    );
    const { snapshot = since, notes } = found ?? {};
    since = snapshot;
    readAt = now;
    // Once, when the line hears again: what is noted meanwhile is told as ever.
    if (hasGap && !isLineNew) {
      hasGap = false;
      onGap();
    } else if (notes) {
      onChanges(gather(notes));
    }
    looks = notes ? 0 : looks + 1;
    const wait = againMs[looks];
    if (wait !== undefined) readSoon(performance.now() + wait);
  }

  function readSoon(at: number): void {
    if (isStopped || at >= dueAt) return;
    if (timer) clearTimeout(timer);
    dueAt = at;
    timer = setTimeout(
      () => {
        timer = null;
        dueAt = Number.POSITIVE_INFINITY;
        readNow().catch(() => pulseSoon(50));
      },
      Math.max(0, Math.max(at, readAt + restMs) - performance.now()),
    );
  }

  /** One after the other: a reading must begin where the last one ended. */
  async function readNow(): Promise<void> {
    while (reading) await reading.catch(() => {});
    if (isStopped) return;
    reading = read();
    try {
      await reading;
    } catch (error) {
      hasGap = true;
      throw error;
    } finally {
      reading = null;
    }
  }

  /** Listening twice is listening once, and after a new connection was made it is needed. */
  async function listen(): Promise<void> {
    const asked = line;
    try {
      await inTime(patienceMs, asked`listen atelier`);
    } catch (error) {
      if (isStopped) return;
      hasGap = true;
      isLineNew = true;
      line = open();
      asked.end({ timeout: 0 }).catch(() => {});
      throw error;
    }
  }

  async function pulse(): Promise<void> {
    const [heard, seen] = await Promise.allSettled([listen(), readNow()]);
    for (const result of [heard, seen]) if (result.status === "rejected") throw result.reason;
    if (isLineNew) {
      isLineNew = false;
      await readNow(); // for those who rang before it could hear
    }
    if (!isStopped) await forget();
  }

  async function forget(): Promise<void> {
    if (performance.now() - forgotAt < forgetMs) return;
    forgotAt = performance.now();
    await inTime(patienceMs, sql`select forget_announcements()`);
  }

  let pulseTimer: ReturnType<typeof setTimeout> | undefined;
  let isPulsing = false;
  let next = pulseMs;
  function pulseSoon(ms: number): void {
    if (isPulsing) {
      next = Math.min(next, ms);
      return;
    }
    clearTimeout(pulseTimer);
    if (isStopped) return;
    pulseTimer = setTimeout(async () => {
      isPulsing = true;
      next = pulseMs;
      try {
        await pulse();
      } catch (error) {
        next = Math.min(next, 200);
        log.warn({ err: error }, "changes cannot be followed");
      }
      isPulsing = false;
      pulseSoon(next);
    }, ms);
  }

  await line`listen atelier`;
  const [first] = await sql<{ snapshot: string }[]>`select pg_current_snapshot()::text as snapshot`;
  since = first?.snapshot ?? "";
  readAt = performance.now();
  pulseSoon(pulseMs);

  return async (): Promise<void> => {
    isStopped = true;
    clearTimeout(pulseTimer);
    if (timer) clearTimeout(timer);
    await reading?.catch(() => {});
    await line.end({ timeout: 1 });
  };
}

function gather(notes: [string, string[] | null][]): Changes {
  const changes: Changes = new Map();
  for (const [name, ids] of notes) {
    const known = changes.get(name);
    if (known === null) continue;
    if (ids === null) changes.set(name, null);
    else if (known) for (const id of ids) known.add(id);
    else changes.set(name, new Set(ids));
  }
  return changes;
}

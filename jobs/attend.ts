/**
 * The part of a worker that attends tasks: it is woken when a task may go or a slot is free, leases what it has room
 * for, and runs it. Runs are no jobs of the queue: an attempt may take hours, and its lease says better who has it.
 */
import { dispatch, endBackOffs, type Leased } from "../src/pool/dispatch.ts";
import { findLease, heldBy, release, takeOver } from "../src/pool/lease.ts";
import { fenced, finish, LeaseLost } from "../src/pool/outcome.ts";
import { isProblem } from "../src/problems.ts";
import type { JobDeps } from "./handler.ts";
import { attempt, ServerMoved } from "./run-task.ts";

const maxBreaks = 5;

export interface Attendant {
  /** Looks for work soon; calls close together are one. */
  wake(): void;
  /**
   * Aborts runs whose lease has gone to another, takes up anew those whose server has moved, and gives up leases that
   * nothing runs for.
   */
  compare(): Promise<void>;
  /** Aborts all runs, leaving them on their engines, and waits until they have let go. */
  stop(): Promise<void>;
}

export interface AttendOptions {
  concurrency: number;
  /** See `Room`. */
  maxRunning: number;
}

interface Run {
  epoch: number;
  abort: AbortController;
  /** Where its server is taken to be; null until that was read. */
  address: string | null;
  ended: Promise<void>;
}

export function createAttendant(deps: JobDeps, { concurrency, maxRunning }: AttendOptions): Attendant {
  const { sql, log, workerId } = deps;
  const running = new Map<number, Run>();
  const timers = new Set<ReturnType<typeof setTimeout>>();
  let strays = new Map<number, number>();
  let looking: Promise<void> | null = null;
  let isWoken = false;
  let isStopped = false;

  const wakeLater = (afterMs: number): void => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      wake();
    }, afterMs);
    timers.add(timer);
  };

  const run = (leased: Leased): void => {
    // Its lease came back to this worker while the old run has not let go yet: `compare` gives it up. A worker that
    // stops hands over what it was just given.
    if (isStopped || running.has(leased.taskId)) return;
    const abort = new AbortController();
    const one: Run = { epoch: leased.epoch, abort, address: null, ended: Promise.resolve() };
    const work = async (): Promise<void> => {
      try {
        const retryMs = await attempt(deps, leased, abort.signal, (address) => {
          one.address = address;
        });
        if (retryMs !== null) wakeLater(retryMs);
      } catch (error) {
        const level = isProblem(error, "database-unavailable") ? "warn" : "error";
        log[level]({ taskId: leased.taskId, err: error }, "a run broke off");
      } finally {
        const isFull = running.size >= concurrency;
        running.delete(leased.taskId);
        if (abort.signal.reason instanceof ServerMoved) run(leased);
        else if (isFull) wake();
      }
    };
    running.set(leased.taskId, one);
    one.ended = work();
  };

  const look = async (): Promise<void> => {
    const room = () => concurrency - running.size;
    const [orphans] = await Promise.all([takeOver(sql, workerId, room()), endBackOffs(sql)]);
    for (const leased of orphans) run(leased);
    if (room() <= 0) return;
    const leased = await dispatch(sql, { workerId, capacity: room(), maxRunning });
    if (leased.length > 0) isWoken = true;
    for (const one of leased) run(one);
  };

  const wake = (): void => {
    isWoken = true;
    looking ??= (async () => {
      while (isWoken && !isStopped) {
        isWoken = false;
        try {
          await look();
        } catch (error) {
          log.warn({ err: error }, "no work could be looked for");
        }
      }
      looking = null;
    })();
  };

  /** A run that breaks off again and again for errors of our own must not go round for ever. */
  const giveUp = async (leased: Leased): Promise<void> => {
    const lease = await findLease(sql, workerId, leased);
    if (lease && lease.breaks >= maxBreaks) {
      const error = { class: "internal", detail: "The task failed for a fault of this service" };
      await fenced(sql, lease, (tx) => finish(tx, lease, { status: "error", error }));
    } else {
      await release(sql, workerId, leased);
    }
  };

  return {
    wake,
    async compare() {
      const held = await heldBy(sql, workerId);
      for (const [taskId, { epoch, abort, address }] of running) {
        const lease = held.get(taskId);
        if (lease?.epoch !== epoch) abort.abort(new LeaseLost());
        else if (lease.overdue) abort.abort(lease.overdue);
        else if (address !== null && lease.address !== address) abort.abort(new ServerMoved());
      }
      // Looked at twice: a lease is in the database a moment before its run is here.
      const idle = new Map(
        [...held].flatMap(([taskId, { epoch }]) => (running.get(taskId)?.epoch === epoch ? [] : [[taskId, epoch]])),
      );
      for (const [taskId, epoch] of idle) {
        if (strays.get(taskId) === epoch) await giveUp({ taskId, epoch });
      }
      strays = idle;
    },
    async stop() {
      isStopped = true;
      for (const timer of timers) clearTimeout(timer);
      for (const { abort } of running.values()) abort.abort(new Error("the worker stops"));
      await looking;
      await Promise.all([...running.values()].map(({ ended }) => ended));
    },
  };
}

/**
 * The part of a worker that attends tasks: it is woken when a task may go or a slot is free, leases what it has room
 * for, and runs it. Runs are no jobs of the queue: an attempt may take hours, and its lease says better who has it.
 */
import { dispatch, type Leased } from "../src/pool/dispatch.ts";
import { findLease, heldBy, release, takeOver } from "../src/pool/lease.ts";
import { LeaseLost } from "../src/pool/outcome.ts";
import type { JobDeps } from "./handler.ts";
import { attempt } from "./run-task.ts";

export interface Attendant {
  /** Looks for work soon; calls close together are one. */
  wake(): void;
  /** Aborts runs whose lease has gone to another, and gives up leases that nothing runs for. */
  compare(): Promise<void>;
  /** Aborts all runs, leaving them on their engines, and waits until they have let go. */
  stop(): Promise<void>;
}

export interface AttendOptions {
  concurrency: number;
  /** See `Room`. */
  maxRunning: number;
}

export function createAttendant(deps: JobDeps, { concurrency, maxRunning }: AttendOptions): Attendant {
  const { sql, log, workerId } = deps;
  const running = new Map<number, { epoch: number; abort: AbortController; ended: Promise<void> }>();
  let strays = new Map<number, number>();
  let isLooking = false;
  let isWoken = false;
  let isStopped = false;

  const run = (leased: Leased): void => {
    // Its lease came back to this worker while the old run has not let go yet: `compare` gives it up.
    if (running.has(leased.taskId)) return;
    const abort = new AbortController();
    const work = async (): Promise<void> => {
      try {
        const lease = await findLease(sql, workerId, leased);
        if (lease) await attempt(deps, lease, abort.signal);
      } catch (error) {
        log.error({ taskId: leased.taskId, err: error }, "a run broke off");
      } finally {
        const isFull = running.size >= concurrency;
        running.delete(leased.taskId);
        if (isFull) wake();
      }
    };
    running.set(leased.taskId, { epoch: leased.epoch, abort, ended: work() });
  };

  const look = async (): Promise<void> => {
    const room = () => concurrency - running.size;
    for (const leased of await takeOver(sql, workerId, room())) run(leased);
    if (room() <= 0) return;
    const leased = await dispatch(sql, { workerId, capacity: room(), maxRunning });
    if (leased.length > 0) isWoken = true;
    for (const one of leased) run(one);
  };

  const wake = (): void => {
    isWoken = true;
    if (isLooking) return;
    isLooking = true;
    void (async () => {
      while (isWoken && !isStopped) {
        isWoken = false;
        try {
          await look();
        } catch (error) {
          log.warn({ err: error }, "no work could be looked for");
        }
      }
      isLooking = false;
    })();
  };

  return {
    wake,
    async compare() {
      const held = await heldBy(sql, workerId);
      for (const [taskId, { epoch, abort }] of running) {
        if (held.get(taskId) !== epoch) abort.abort(new LeaseLost());
      }
      // Looked at twice: a lease is in the database a moment before its run is here.
      const idle = new Map([...held].filter(([taskId, epoch]) => running.get(taskId)?.epoch !== epoch));
      for (const [taskId, epoch] of idle) {
        if (strays.get(taskId) === epoch) await release(sql, workerId, { taskId, epoch });
      }
      strays = idle;
    },
    async stop() {
      isStopped = true;
      for (const { abort } of running.values()) abort.abort(new Error("the worker stops"));
      await Promise.all([...running.values()].map(({ ended }) => ended));
    },
  };
}

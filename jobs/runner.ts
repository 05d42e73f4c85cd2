/**
 * A graphile-worker runner that outlives the database's outages. graphile-worker gives up when it cannot write down how
 * a job ended, and keeps the jobs of a dead process locked for four hours; here a runner that gave up is started anew,
 * and each is known by the id that its jobs are locked under, so that a dead one's can be freed.
 */
import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger as GraphileLogger, type Runner, run, type TaskList } from "graphile-worker";
import type { JobDeps } from "./handler.ts";

const longestPauseMs = 5_000;

export interface RunnerOptions {
  databaseUrl: string;
  taskList: TaskList;
  /** Jobs at once. */
  concurrency: number;
  crontab?: string;
  log: JobDeps["log"];
}

export interface LastingRunner {
  /** What the jobs that run now are locked by; null between two lives. */
  lockedBy(): string | null;
  /** Waits for the jobs that run. */
  stop(): Promise<void>;
}

/** @throws when the first start fails: the database is not there, or not what it should be */
export async function startRunner({ databaseUrl, log, crontab = "", ...what }: RunnerOptions): Promise<LastingRunner> {
  let lockedBy: string | null = null;
  let current: Runner | null = null;
  let isStopped = false;
  const events = new EventEmitter();
  events.on("pool:create", ({ workerPool }) => {
    lockedBy = workerPool.id;
  });

  const start = async (): Promise<Runner> =>
    run({
      ...what,
      connectionString: databaseUrl,
      maxPoolSize: Math.min(what.concurrency, 10) + 1,
      noHandleSignals: true,
      crontab,
      logger: toGraphileLogger(log),
      events,
      // Without a batch, an outage in the moment of completion is an unhandled rejection, which ends the process.
      preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
    });

  const watch = async (runner: Runner): Promise<void> => {
    current = runner;
    await runner.promise.catch((error) => log.warn({ err: error }, "the job runner gave up"));
    for (let tries = 0; !isStopped; tries += 1) {
      lockedBy = null;
      await sleep(Math.min(longestPauseMs, 100 * 2 ** tries));
      if (isStopped) return;
      try {
        current = await start();
        log.info("the job runner goes on");
        return void watch(current);
      } catch (error) {
        log.warn({ err: error }, "the job runner cannot start");
      }
    }
  };
  void watch(await start());

  return {
    lockedBy: () => lockedBy,
    async stop() {
      isStopped = true;
      // It may have given up a moment ago: then there is nothing to wait for.
      await current?.stop().catch((error) => log.debug({ err: error }, "the job runner had stopped"));
    },
  };
}

function toGraphileLogger(log: JobDeps["log"]): GraphileLogger {
  return new GraphileLogger(() => (level, message, meta) => {
    if (level === "error") log.warn({ err: meta?.error }, message);
    else log.trace(message);
  });
}

/** The handler list handed to graphile-worker, and the worker's own heartbeat around it. */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import type { TaskList } from "graphile-worker";
import type { Sql } from "../src/db/client.ts";
import { addJob } from "../src/db/queue.ts";
import { beat, resign, sweepLeases, unlockJobs } from "../src/pool/lease.ts";
import { foldWaiting } from "../src/search/entries.ts";
import { remindOverdue } from "../src/webhooks/deliveries.ts";
import { type AttendOptions, createAttendant } from "./attend.ts";
import { createCancelRun } from "./cancel-run.ts";
import { createDeleteFiles } from "./delete-files.ts";
import { createDeliverWebhook } from "./deliver-webhook.ts";
import type { JobDeps } from "./handler.ts";
import { createPrepareTask } from "./prepare-task.ts";
import { createProbeServers } from "./probe-servers.ts";
import { startRunner } from "./runner.ts";
import { createSpreadSight } from "./spread-sight.ts";
import { createSweep } from "./sweep.ts";
import { createSweepFiles } from "./sweep-files.ts";

/** A third of the time after which a silent worker counts as dead. */
const beatMs = 3_000;
const probeMs = 15_000;
/** Short jobs at once; runs are attended apart from them. */
const controlConcurrency = 6;
/** Receivers are strangers and may hang: they get a pool where they keep nobody else waiting. */
const webhookConcurrency = 16;

/** At a quiet hour, by UTC; what was missed while no worker ran is made up for. */
const crontab = ["17 3 * * * sweep ?fill=1d&max=3", "41 3 * * * sweep-files ?fill=1d&max=3"].join("\n");

export interface Worker {
  id: string;
  /** Hands running tasks over to other workers, waits for short jobs, and says good-bye. */
  stop(): Promise<void>;
}

export async function startWorker(
  base: Omit<JobDeps, "workerId" | "stopping">,
  { databaseUrl, concurrency, maxRunning }: { databaseUrl: string } & AttendOptions,
): Promise<Worker> {
  const worker = { id: randomUUID(), host: hostname(), concurrency };
  const stopping = new AbortController();
  const deps: JobDeps = {
    ...base,
    workerId: worker.id,
    stopping: stopping.signal,
    log: base.log.child({ workerId: worker.id }),
  };
  const { sql, log } = deps;
  const attendant = createAttendant(deps, { concurrency, maxRunning });

  const control: TaskList = {
    "prepare-task": createPrepareTask(deps),
    "probe-servers": createProbeServers(deps),
    "cancel-run": createCancelRun(deps),
    "delete-files": createDeleteFiles(deps),
    "spread-sight": createSpreadSight(deps),
    sweep: createSweep(deps),
    "sweep-files": createSweepFiles(deps),
  };
  const start = (taskList: TaskList, concurrency: number, crontab?: string) =>
    startRunner({ databaseUrl, taskList, concurrency, crontab, log });
  const runners = await Promise.all([
    start(control, controlConcurrency, crontab),
    start({ "deliver-webhook": createDeliverWebhook(deps) }, webhookConcurrency),
  ]);
  const sayAlive = () => {
    const lockedBy = runners.flatMap((runner) => runner.lockedBy() ?? []);
    return beat(sql, { ...worker, lockedBy });
  };
  await sayAlive();
  // Also when the connection is back: what was announced meanwhile was not heard.
  const announcements = await sql.listen("pool", attendant.wake, attendant.wake);

  // Not crontab: its minute is too coarse for a heartbeat.
  const pulse = async (): Promise<void> => {
    // After an outage of the database all seem dead: the others get the time to say that they live.
    const isKnown = await sayAlive();
    await attendant.compare();
    if (isKnown) {
      await sweepLeases(sql);
      await unlockJobs(sql);
    }
    await sql`select charge_running(), expire_tasks()`;
    // What lists are kept fast by: see sql/0013_lists.sql to 0015_search.sql.
    await sql`select fold_counts(), fold_uses()`;
    await sql.begin((tx) => foldWaiting(tx as unknown as Sql));
  };
  const stopPulse = repeat(beatMs, pulse, log);
  const look = async (): Promise<void> => {
    await addJob(sql, "probe-servers", {}, { key: "probe-all", maxAttempts: 1 });
    await sql`select measure_needs()`;
    await sql`select forget_announcements()`; // no API may be running
    attendant.wake(); // the safety net: what may go is announced
    await remindOverdue(sql);
  };
  const stopProbes = repeat(probeMs, look, log);
  await look();

  return {
    id: worker.id,
    async stop() {
      stopPulse();
      stopProbes();
      stopping.abort();
      await announcements.unlisten().catch(() => {});
      await Promise.all([attendant.stop(), ...runners.map((runner) => runner.stop())]);
      // Without a database there is nobody to say good-bye to: the heartbeat runs out instead.
      await resign(sql, worker.id).catch((error) => log.warn({ err: error }, "the leases could not be handed over"));
    },
  };
}

/** Runs `work` again and again; an error (the database may be away) is logged and does not end it. */
function repeat(everyMs: number, work: () => Promise<void>, log: JobDeps["log"]): () => void {
  let isBusy = false;
  const timer = setInterval(async () => {
    if (isBusy) return;
    isBusy = true;
    try {
      await work();
    } catch (error) {
      log.warn({ err: error }, "the worker's pulse failed");
    } finally {
      isBusy = false;
    }
  }, everyMs);
  return () => clearInterval(timer);
}

/** One run on one engine: started, or found again, and followed to its end. */
import { randomUUID } from "node:crypto";
import type { Sql } from "../db/client.ts";
import {
  type Artifact,
  type Driver,
  EngineError,
  type EngineHandle,
  type EngineJob,
  type EngineTarget,
  type Phase,
} from "../drivers/driver.ts";
import { advance, type Lease, type Stage, type StoredHandle, storeHandle } from "./lease.ts";
import { LeaseLost } from "./outcome.ts";
import { persist } from "./persist.ts";
import { findTrainingRun, keepTrainingRun } from "./training-run.ts";

/** An engine that restarts is back by then; longer, and the task is better off on another server. */
const startPatienceMs = 10_000;

export interface Progress {
  phase: Phase;
  /** Share done, 0 to 1. */
  fraction: number;
  step: number;
  loss?: number;
}

export interface Run {
  sql: Sql;
  driver: Driver;
  target: EngineTarget;
  lease: Lease;
  /** Which run of the task this is. */
  part: string;
  job: EngineJob;
  /** Aborting leaves the run on the engine as it is. */
  signal: AbortSignal;
  onProgress: (progress: Progress) => Promise<void>;
  /** A picture that the engine shows of its work; not waited for. */
  onPreview: (bytes: Uint8Array) => void;
  /** A picture made with the model that is trained; not waited for. */
  onSample?: (sample: Artifact) => void;
}

/**
 * Goes on with the run that the lease's handle names, or starts one: the handle is stored before anything is submitted,
 * and names the run before it as well, whose result may not be stored yet.
 * @returns what the run produced
 * @throws EngineError for every bad end; LeaseLost; the signal's reason
 */
export async function follow(run: Run): Promise<Artifact[]> {
  const { sql, driver, target, lease, part, job, signal } = run;
  let handle = findRun(lease.handle, part);
  if (!handle) {
    const isTraining = job.kind === "train";
    const previous = isTraining ? await findTrainingRun(sql, lease) : null;
    handle = driver.prepare(randomUUID(), job, previous ?? undefined);
    const before = lease.handle && { part: lease.handle.part, run: lease.handle.run };
    lease.handle = { part, run: handle, before };
    if (!(await storeHandle(sql, lease, lease.handle))) throw new LeaseLost();
    if (isTraining) await keepTrainingRun(sql, lease, handle);
    const started = handle;
    // An answer that got lost may have left the run there: another server would do it twice.
    await persist(signal, { awayMs: startPatienceMs }, () => driver.start(target, started, job, signal));
  }
  const artifacts: Artifact[] = [];
  let stage: Stage = "loading";
  let silentMs = 0;
  let position = -1;
  for await (const event of driver.watch(target, handle, signal)) {
    switch (event.type) {
      case "progress":
        stage = event.phase;
        await advance(sql, lease, stage, silentMs);
        await run.onProgress({
          phase: event.phase,
          fraction: event.total > 0 ? event.step / event.total : 0,
          step: event.step,
          loss: event.loss,
        });
        break;
      case "preview":
        run.onPreview(event.bytes);
        break;
      case "queued":
        // A place further on is progress; standing still behind the runs of others is borne for a while.
        if (event.position !== position) await advance(sql, lease, "queued", silentMs);
        position = event.position;
        break;
      case "started":
        await advance(sql, lease, stage, silentMs);
        break;
      case "silent":
        silentMs = event.forMs;
        await advance(sql, lease, stage, silentMs);
        break;
      case "artifact":
        if (event.artifact.role === "sample") run.onSample?.(event.artifact);
        else artifacts.push(event.artifact);
        break;
      case "finished":
        return artifacts;
      case "failed":
        throw event.error;
      case "lost":
        throw new EngineError("engine-lost", "The engine restarted and forgot the run");
      case "canceled":
        // Ours cancels through the task, whose lease is gone by now; else somebody did it on the engine.
        throw new EngineError("engine-failed", "The run was canceled on the engine");
    }
  }
  throw new EngineError("engine-failed", "The engine's events ended without an outcome");
}

function findRun(handle: StoredHandle | null, part: string): EngineHandle | null {
  return [handle, handle?.before].find((run) => run?.part === part)?.run ?? null;
}

/**
 * One attempt of a task on the server it was leased. Whatever happens to this process, the lease is swept to another
 * worker, which finds the run on the engine again.
 */
import { addJob } from "../src/db/queue.ts";
import { type Driver, EngineError, type EngineTarget } from "../src/drivers/driver.ts";
import { driverOf } from "../src/drivers/index.ts";
import type { Leased } from "../src/pool/dispatch.ts";
import { findWork } from "../src/pool/inputs.ts";
import { findLease, type Lease } from "../src/pool/lease.ts";
import { fenced, finish, innocentClasses, judge, LeaseLost, type Pace } from "../src/pool/outcome.ts";
import { createPace } from "../src/pool/pace.ts";
import { forgetPlacement } from "../src/pool/placements.ts";
import { setAside } from "../src/pool/probe.ts";
import { toTarget } from "../src/pool/server.ts";
import type { JobDeps } from "./handler.ts";
import { makeImages } from "./make-images.ts";
import { trainModel } from "./train-model.ts";

const cancelTimeoutMs = 10_000;

/** The server has moved: its runs are to be followed at its new address. */
export class ServerMoved extends Error {
  override readonly name = "ServerMoved";
}

/**
 * Runs a leased task to its end, unless it is somebody else's by now.
 * @param onAddress is told where the server is taken to be
 * @param signal its reason is LeaseLost when the lease is gone, an EngineError when the attempt's time is over, else the
 *   server moves or the worker stops: then nothing more is written, and the run on the engine goes on
 * @returns milliseconds after which the task may be tried again; null when it has ended, or is another's
 */
export async function attempt(
  deps: JobDeps,
  leased: Leased,
  signal: AbortSignal,
  onAddress: (address: string) => void,
): Promise<number | null> {
  const { sql, log, workerId } = deps;
  const [lease, work] = await Promise.all([findLease(sql, workerId, leased), findWork(sql, leased.taskId)]);
  if (!lease || !work) return null;
  const { task, server } = work;
  const pace = createPace();
  const driver = server.engine ? driverOf(server.engine) : null;
  const target = toTarget(server, deps.secrets);
  onAddress(server.address);
  try {
    if (!driver) throw new EngineError("wrong-engine", "The server's engine is not known");
    const run = { deps, lease, work, driver, target, signal, pace };
    if (task.type === "train") await trainModel(run);
    else await makeImages(run);
    return null;
  } catch (thrown) {
    // Whatever an aborted call throws, the reason is what counts.
    const error = signal.aborted ? signal.reason : thrown;
    if (error instanceof LeaseLost) {
      if (driver) await endOrphan(deps, lease, driver, target);
      return null;
    }
    if (!(error instanceof EngineError)) {
      if (signal.aborted) return null;
      throw error; // a bug or the database: the lease goes to another
    }
    log.warn({ taskId: task.id, serverId: server.id, err: error }, "attempt failed");
    return fail(deps, lease, error, pace.measured()).catch(ignoreLostLease);
  }
}

/**
 * A cancel may have reached the engine before the run was submitted there. Unless another worker has the run by now,
 * nobody else would end it.
 */
async function endOrphan({ sql, log }: JobDeps, lease: Lease, driver: Driver, target: EngineTarget): Promise<void> {
  if (!lease.handle) return;
  const { run } = lease.handle;
  const [held] =
    await sql`select from leases where handle->'run'->>'runId' = ${run.runId} and task_id = ${lease.taskId}`;
  if (held) return;
  await driver.cancel(target, run, AbortSignal.timeout(cancelTimeoutMs)).catch((error) => {
    log.warn({ taskId: lease.taskId, err: error }, "a canceled run could not be ended");
  });
}

async function fail({ sql }: JobDeps, lease: Lease, error: EngineError, pace: Pace | null): Promise<number | null> {
  return fenced(sql, lease, async (tx) => {
    const [row] = await tx<{ tries: number; failures: number }[]>`
      select t.tries, (
        select count(*)::int from attempts a
        where a.task_id = t.id
          and a.number > t.attempts - t.tries
          and a.error_class <> all (${innocentClasses}::text[])
      ) as failures
      from tasks t
      where t.id = ${lease.taskId}
    `;
    const verdict = judge(error, row ?? { tries: 1, failures: 0 });
    // What stalls, takes too long or is out of reach may still go on there.
    if (lease.handle && ["stalled", "deadline", "unreachable"].includes(error.errorClass)) {
      await addJob(tx, "cancel-run", { server_id: lease.serverId, handle: lease.handle });
    }
    if (error.errorClass === "model-missing") await forgetPlacement(tx, lease.serverId, lease.taskId);
    const told = { class: error.errorClass, detail: error.message };
    const { isRetried, delaySeconds } = verdict;
    const avoid = verdict.isServerAvoided ? lease.serverId : null;
    await finish(
      tx,
      lease,
      isRetried ? { status: "waiting", error: told, delaySeconds, avoid } : { status: "error", error: told },
      pace,
    );
    // After the slot is free, which shows the server as ready.
    if (verdict.isServerAway) {
      await setAside(tx, lease.serverId, error.message);
    } else if (verdict.isServerBlamed) {
      await tx`select blame_server(${lease.serverId}, ${error.message})`;
    }
    return isRetried ? delaySeconds * 1000 : null;
  });
}

function ignoreLostLease(error: unknown): null {
  if (!(error instanceof LeaseLost)) throw error;
  return null;
}

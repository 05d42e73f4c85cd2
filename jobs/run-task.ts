/**
 * One attempt of a task on the server it was leased. Whatever happens to this process, the lease is swept to another
 * worker, which finds the run on the engine again.
 */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { addJob } from "../src/db/queue.ts";
import { type Artifact, type Driver, EngineError, type EngineTarget } from "../src/drivers/driver.ts";
import { driverOf } from "../src/drivers/index.ts";
import { orderCover } from "../src/pool/cover.ts";
import { follow } from "../src/pool/follow.ts";
import {
  findModel,
  inferenceJob,
  type ModelRow,
  pendingImages,
  type TaskRow,
  trainingJob,
} from "../src/pool/inputs.ts";
import type { Lease } from "../src/pool/lease.ts";
import { fenced, finish, innocentClasses, judge, LeaseLost, type Pace } from "../src/pool/outcome.ts";
import { createPace } from "../src/pool/pace.ts";
import { persist } from "../src/pool/persist.ts";
import { forgetPlacement, notePlacement } from "../src/pool/placements.ts";
import { setAside } from "../src/pool/probe.ts";
import { findServer, type ServerRow, toTarget } from "../src/pool/server.ts";
import { Problem } from "../src/problems.ts";
import { keepModelFile, keepPickle } from "../src/storage/models.ts";
import { readPicture } from "../src/storage/pictures.ts";
import { type FileRecord, keepPicture } from "../src/storage/records.ts";
import { spool } from "../src/storage/spool.ts";
import type { JobDeps } from "./handler.ts";
import { createPreviewer } from "./keep-preview.ts";
import { createSampler } from "./keep-sample.ts";
import { readAtMost } from "./read-at-most.ts";
import { createReporter } from "./report-progress.ts";

const maxModelBytes = 8_000_000_000;
const maxPictureBytes = 50_000_000;
const cancelTimeoutMs = 10_000;

interface Attempt {
  deps: JobDeps;
  lease: Lease;
  task: TaskRow;
  server: ServerRow;
  driver: Driver;
  target: EngineTarget;
  signal: AbortSignal;
  model: ModelRow | null;
  pace: ReturnType<typeof createPace>;
}

/**
 * Runs a leased task to its end.
 * @param signal its reason is LeaseLost when the lease is gone, an EngineError when the attempt's time is over, else the
 *   worker stops: then nothing more is written, and the run on the engine goes on
 * @returns milliseconds after which the task may be tried again; null when it has ended, or is another's
 */
export async function attempt(deps: JobDeps, lease: Lease, signal: AbortSignal): Promise<number | null> {
  const { sql, log } = deps;
  const [[task], server] = await Promise.all([
    sql<TaskRow[]>`
      select id, type, user_id, model_id, params->>'model_id' is not null as wants_model, base_model, attempts,
        is_cover
      from tasks
      where id = ${lease.taskId}
    `,
    findServer(sql, lease.serverId),
  ]);
  if (!task || !server) return null;
  const pace = createPace();
  const driver = server.engine ? driverOf(server.engine) : null;
  const target = toTarget(server, deps.secrets);
  try {
    if (!driver) throw new EngineError("wrong-engine", "The server's engine is not known");
    const model = await findModel(sql, task.model_id);
    const run = { deps, lease, task, server, driver, target, signal, model, pace };
    if (task.type === "train") await train(run);
    else await infer(run);
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

async function train(run: Attempt): Promise<void> {
  const { deps, lease, task, server, model } = run;
  const { sql, storage } = deps;
  if (!model) throw new EngineError("bad-input", "The model has been deleted");
  const report = createReporter(sql, lease);
  const onPreview = createPreviewer(deps, lease, null);
  const samples = createSampler(run, onPreview);
  const artifacts = await follow({
    ...run,
    sql,
    part: "train",
    job: await trainingJob(sql, storage, server, model),
    onProgress(progress) {
      run.pace.observe(progress);
      return report.task(progress, progress.fraction);
    },
    onPreview,
    onSample: samples.take,
  }).finally(samples.taken);
  const artifact = artifacts.find((found) => found.role === "model");
  if (!artifact) throw new EngineError("engine-failed", "The training ended without a model file");
  const file = await keepModel(run, model, artifact);
  await fenced(sql, lease, async (tx) => {
    await tx`
      update models
      set model_path = ${file.key}, hash = ${file.hash}, server_id = ${server.id}
      where id = ${model.id}
    `;
    await tx`update tasks set metrics = ${tx.json(report.losses() as never)} where id = ${task.id}`;
    await orderCover(tx, model);
    await finish(tx, lease, { status: "success" }, run.pace.measured());
  });
}

/** Types that some engines can write as a pickle only. */
const pickledTypes: readonly string[] = ["ti", "hyper"];

/** Stores a trained model, checked before it is kept. @throws EngineError "engine-failed" when it is no such file */
async function keepModel(run: Attempt, { type }: ModelRow, artifact: Artifact): Promise<FileRecord> {
  const { driver, target, signal, task, deps } = run;
  const path = join(deps.temporaryDirectory, randomUUID());
  await mkdir(deps.temporaryDirectory, { recursive: true });
  try {
    // The work is done: it is not thrown away because the engine is away for a while.
    const file = await persist(signal, null, async () =>
      spool(await driver.fetch(target, artifact, signal), path, maxModelBytes),
    );
    if (file.size === 0) throw new EngineError("engine-failed", "The engine's model file is empty");
    if (artifact.extension === "pt" && pickledTypes.includes(type)) {
      return await keepPickle(deps.sql, deps.storage, task.user_id, file);
    }
    return await keepModelFile(deps.sql, deps.storage, task.user_id, file);
  } catch (error) {
    if (error instanceof Problem && error.status < 500) {
      throw new EngineError("engine-failed", `The engine's model file is not valid: ${error.message}`);
    }
    throw error;
  } finally {
    await rm(path, { force: true });
  }
}

async function infer(run: Attempt): Promise<void> {
  const { deps, lease, task, server, model } = run;
  const { sql, storage } = deps;
  if (task.wants_model && !model?.model_path) throw new EngineError("bad-input", "The model has been deleted");
  const [images, [counted]] = await Promise.all([
    pendingImages(sql, task.id),
    sql<{ count: number }[]>`select count(*) from images where task_id = ${task.id}`,
  ]);
  const total = Math.max(1, counted?.count ?? 1);
  for (const [index, image] of images.entries()) {
    const report = createReporter(sql, lease);
    const before = total - images.length + index;
    const artifacts = await follow({
      ...run,
      sql,
      part: `image ${image.id}`,
      job: await inferenceJob(sql, storage, server, image, task, model),
      onProgress(progress) {
        run.pace.observe(progress);
        return report.image(progress, image.id, progress.fraction, (before + progress.fraction) / total);
      },
      onPreview: createPreviewer(deps, lease, image.id),
    });
    const file = await keepArtifact(run, artifacts);
    await fenced(sql, lease, async (tx) => {
      const [kept] = await tx`
        update images
        set file_key = ${file.key}, status = 'success', progress = 100, error = null
        where id = ${image.id}
        returning id
      `;
      if (index === 0 && model?.model_path) await notePlacement(tx, server.id, model.model_path);
      if (!kept) await addJob(tx, "delete-files", { keys: [file.key] });
      else if (task.is_cover) {
        await tx`
          update models set image = ${`/api/files/${file.key}`} where id = ${task.model_id} and image is null
        `;
      }
      if (index === images.length - 1) await finish(tx, lease, { status: "success" }, run.pace.measured());
    });
  }
  // All were made by an earlier attempt that could not say so any more.
  if (images.length === 0)
    await fenced(sql, lease, (tx) => finish(tx, lease, { status: "success" }, run.pace.measured()));
}

/** Stores a made picture, without the engine's metadata: that holds the prompt. */
async function keepArtifact(run: Attempt, artifacts: Artifact[]): Promise<FileRecord> {
  const { deps, task } = run;
  const artifact = artifacts.find((found) => found.role === "image");
  if (!artifact) throw new EngineError("engine-failed", "The engine finished without a picture");
  const { driver, target, signal } = run;
  const bytes = await persist(signal, null, async () =>
    readAtMost(await driver.fetch(target, artifact, signal), maxPictureBytes),
  );
  const picture = await readPicture(bytes).catch((cause) => {
    throw new EngineError("engine-failed", "The engine's picture cannot be read", { cause });
  });
  return keepPicture(deps.sql, deps.storage, task.user_id, picture);
}

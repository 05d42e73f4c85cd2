/** One attempt at a training. */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Artifact, EngineError } from "../src/drivers/driver.ts";
import { orderCover } from "../src/pool/cover.ts";
import { follow } from "../src/pool/follow.ts";
import { checkpointOf, type ModelRow, trainingJob } from "../src/pool/inputs.ts";
import { advance } from "../src/pool/lease.ts";
import { fenced, finish } from "../src/pool/outcome.ts";
import { persist } from "../src/pool/persist.ts";
import { Problem } from "../src/problems.ts";
import { describeTrained } from "../src/storage/claims.ts";
import { inscribe } from "../src/storage/inscribe.ts";
import { keepModelFile, keepPickle } from "../src/storage/models.ts";
import type { FileRecord } from "../src/storage/records.ts";
import { spool } from "../src/storage/spool.ts";
import { type Attempt, leaveSlot, resultPatience } from "./attempt.ts";
import { createPreviewer } from "./keep-preview.ts";
import { createSampler } from "./keep-sample.ts";
import { createReporter } from "./report-progress.ts";

const maxModelBytes = 8_000_000_000;
/** For so long our own storage may take over the largest model before the task counts as stalled. */
const storeMs = 3_600_000;

export async function trainModel(run: Attempt): Promise<void> {
  const { deps, lease } = run;
  const { task, server, model } = run.work;
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
  await leaveSlot(run);
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

/** Stores a trained model with what we know of it, checked before it is kept. @throws EngineError "engine-failed" when it is no such file */
async function keepModel(run: Attempt, model: ModelRow, artifact: Artifact): Promise<FileRecord> {
  const { driver, target, signal, deps, lease } = run;
  const { task, server } = run.work;
  const isPickle = artifact.extension === "pt" && pickledTypes.includes(model.type);
  const trained = { ...model, ...model.train, checkpoint: checkpointOf(server, model.base_model) };
  const path = join(deps.temporaryDirectory, randomUUID());
  await mkdir(deps.temporaryDirectory, { recursive: true });
  try {
    const file = await persist(signal, resultPatience, async () => {
      const bytes = watched(await driver.fetch(target, artifact, signal), run);
      const whole = isPickle ? bytes : inscribe(bytes, (written) => describeTrained(written, trained));
      return spool(whole, path, maxModelBytes);
    });
    if (file.size === 0) throw new EngineError("engine-failed", "The engine's model file is empty");
    await advance(deps.sql, lease, "storing", storeMs);
    const keep = isPickle ? keepPickle : keepModelFile;
    return await keep(deps.sql, deps.storage, task.user_id, file);
  } catch (error) {
    if (error instanceof Problem && error.status < 500) {
      throw new EngineError("engine-failed", `The engine's model file is not valid: ${error.message}`);
    }
    throw error;
  } finally {
    await rm(path, { force: true });
  }
}

/** What arrives moves the stall limit: gigabytes over a slow line take longer than an engine may be silent. */
async function* watched(stream: ReadableStream<Uint8Array>, { deps, lease }: Attempt): AsyncGenerator<Uint8Array> {
  for await (const chunk of stream) {
    await advance(deps.sql, lease, "storing", 0);
    yield chunk;
  }
}

/** One attempt at the pictures of an inference task. */
import { addJob } from "../src/db/queue.ts";
import { type Artifact, EngineError } from "../src/drivers/driver.ts";
import { follow } from "../src/pool/follow.ts";
import { type ImageRow, inferenceJob } from "../src/pool/inputs.ts";
import { fenced, finish } from "../src/pool/outcome.ts";
import { persist } from "../src/pool/persist.ts";
import { notePlacement } from "../src/pool/placements.ts";
import { readPicture } from "../src/storage/pictures.ts";
import { type FileRecord, keepPicture } from "../src/storage/records.ts";
import { type Attempt, leaveSlot, resultPatience } from "./attempt.ts";
import { createPreviewer } from "./keep-preview.ts";
import { readAtMost } from "./read-at-most.ts";
import { createReporter } from "./report-progress.ts";

const maxPictureBytes = 50_000_000;

/** Each picture is stored while the engine makes the next: at most one, for the lease names two runs. */
export async function makeImages(run: Attempt): Promise<void> {
  const { deps, lease, pace } = run;
  const { task, model, images } = run.work;
  if (task.wants_model && !model?.model_path) throw new EngineError("bad-input", "The model has been deleted");
  const last = images.at(-1);
  // All were made by an earlier attempt that could not say so any more.
  if (!last) return fenced(deps.sql, lease, (tx) => finish(tx, lease, { status: "success" }, pace.measured()));
  /** What went wrong with storing the one before. */
  let stored: Promise<unknown> = Promise.resolve(null);
  for (const image of images) {
    const artifacts = await draw(run, image).catch(async (error) => {
      await stored;
      throw error;
    });
    const wrong = await stored;
    if (wrong) {
      // What was made is kept, whatever became of the one before.
      await store(run, image, artifacts, false).catch(() => {});
      throw wrong;
    }
    const isEnd = image === last;
    if (isEnd) await leaveSlot(run);
    stored = store(run, image, artifacts, isEnd).then(
      () => null,
      (error) => error,
    );
  }
  const wrong = await stored;
  if (wrong) throw wrong;
}

async function draw(run: Attempt, image: ImageRow): Promise<Artifact[]> {
  const { deps, lease } = run;
  const { task, server, model, images, total } = run.work;
  const report = createReporter(deps.sql, lease);
  const before = total - images.length + images.indexOf(image);
  return follow({
    ...run,
    sql: deps.sql,
    part: `image ${image.id}`,
    job: await inferenceJob(deps.sql, deps.storage, server, image, task, model),
    onProgress(progress) {
      run.pace.observe(progress);
      return report.image(progress, image.id, progress.fraction, (before + progress.fraction) / total);
    },
    onPreview: createPreviewer(deps, lease, image.id),
  });
}

/** @param isEnd whether the task has succeeded with it */
async function store(run: Attempt, image: ImageRow, artifacts: Artifact[], isEnd: boolean): Promise<void> {
  const { deps, lease, pace } = run;
  const { task, server, model, images } = run.work;
  const file = await keepArtifact(run, artifacts);
  await fenced(deps.sql, lease, async (tx) => {
    const [kept] = await tx`
      update images
      set file_key = ${file.key}, status = 'success', progress = 100, error = null
      where id = ${image.id}
      returning id
    `;
    if (image === images[0] && model?.model_path) await notePlacement(tx, server.id, model.model_path);
    if (!kept) await addJob(tx, "delete-files", { keys: [file.key] });
    else if (task.is_cover) {
      await tx`
        update models set image = ${`/api/files/${file.key}`} where id = ${task.model_id} and image is null
      `;
    }
    if (isEnd) await finish(tx, lease, { status: "success" }, pace.measured());
  });
}

/** Stores a made picture, without the engine's metadata: that holds the prompt. */
async function keepArtifact(run: Attempt, artifacts: Artifact[]): Promise<FileRecord> {
  const { deps, work, driver, target, signal } = run;
  const artifact = artifacts.find((found) => found.role === "image");
  if (!artifact) throw new EngineError("engine-failed", "The engine finished without a picture");
  const bytes = await persist(signal, resultPatience, async () =>
    readAtMost(await driver.fetch(target, artifact, signal), maxPictureBytes),
  );
  const picture = await readPicture(bytes).catch((cause) => {
    throw new EngineError("engine-failed", "The engine's picture cannot be read", { cause });
  });
  return keepPicture(deps.sql, deps.storage, work.task.user_id, picture);
}

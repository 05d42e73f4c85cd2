/** A task's stored rows as jobs for a driver. */
import type { Sql } from "../db/client.ts";
import { EngineError, type EngineJob, type InputFile, type ModelType, type Scheduler } from "../drivers/driver.ts";
import type { Storage } from "../storage/storage.ts";
import { type ServerRow, serverRows } from "./server.ts";

export interface TaskRow {
  id: number;
  type: "train" | "infer";
  user_id: number;
  model_id: number | null;
  /** The task was ordered with a model, which may have been deleted since. */
  wants_model: boolean;
  base_model: "SD1.5" | "SD2";
  attempts: number;
  is_cover: boolean;
}

export interface ModelRow {
  id: number;
  name: string;
  type: ModelType;
  base_model: "SD1.5" | "SD2";
  trigger_words: string;
  model_path: string | null;
  image: string | null;
  epochs: number;
  train: { resolution: number; learning_rate: number; rank: number; batch_size: number; seed: number };
}

export interface ImageRow {
  id: number;
  prompt: string;
  negative_prompt: string;
  width: number;
  height: number;
  num_inference_steps: number;
  guidance_scale: number;
  scheduler: Scheduler;
  seed: number;
  from_image: string | null;
  strength: number | null;
}

/** All that an attempt at a task goes by. */
export interface Work {
  task: TaskRow;
  server: ServerRow;
  model: ModelRow | null;
  /** The images that are still to be made, in order. */
  images: ImageRow[];
  /** How many images it has in all. */
  total: number;
}

/** Null when the task or its server is gone. In one go, for a GPU waits for it. */
export async function findWork(sql: Sql, taskId: number): Promise<Work | null> {
  const [[task], [server], [model], images, [counted]] = await Promise.all([
    sql<TaskRow[]>`
      select id, type, user_id, model_id, params->>'model_id' is not null as wants_model, base_model, attempts, is_cover
      from tasks
      where id = ${taskId}
    `,
    serverRows(sql, sql`id = (select server_id from tasks where id = ${taskId})`),
    sql<ModelRow[]>`
      select id, name, type, base_model, trigger_words, model_path, image, epochs, train
      from models
      where id = (select model_id from tasks where id = ${taskId})
    `,
    sql<ImageRow[]>`
      select id, prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, scheduler, seed,
        from_image, strength
      from images
      where task_id = ${taskId}
        and status <> 'success'
      order by id
    `,
    sql<{ total: number }[]>`select count(*)::int as total from images where task_id = ${taskId}`,
  ]);
  return task && server ? { task, server, model: model ?? null, images, total: counted?.total ?? 0 } : null;
}

/** A stored file as a driver takes it. @throws EngineError "bad-input" when it is gone */
export async function inputFile(sql: Sql, storage: Storage, key: string): Promise<InputFile> {
  const [file] = await sql<{ hash: string; size: number }[]>`select hash, size from files where key = ${key}`;
  if (!file) throw new EngineError("bad-input", "A file that the task needs has been deleted");
  return {
    hash: file.hash,
    size: file.size,
    extension: key.split(".").at(-1) ?? "bin",
    async stream() {
      const object = await storage.get(key);
      if (!object) throw new EngineError("bad-input", "A file that the task needs is missing from the storage");
      return object.stream();
    },
  };
}

/** The server's file for a base model. @throws EngineError "model-missing" */
export function checkpointOf(server: ServerRow, baseModel: "SD1.5" | "SD2"): string {
  const checkpoint = server.checkpoints[baseModel];
  if (!checkpoint) throw new EngineError("model-missing", `The server has no checkpoint for ${baseModel}`);
  return checkpoint;
}

export async function trainingJob(sql: Sql, storage: Storage, server: ServerRow, model: ModelRow): Promise<EngineJob> {
  const [task] = await sql<{ manifest: { key: string; caption: string }[] }[]>`
    select k.manifest from models m join tasks k on k.id = m.task_id where m.id = ${model.id}
  `;
  return {
    kind: "train",
    type: model.type,
    checkpoint: checkpointOf(server, model.base_model),
    baseModel: model.base_model,
    pictures: await Promise.all(
      (task?.manifest ?? []).map(async ({ key, caption }) => ({ image: await inputFile(sql, storage, key), caption })),
    ),
    steps: model.epochs,
    learningRate: model.train.learning_rate,
    rank: model.train.rank,
    batchSize: model.train.batch_size,
    resolution: model.train.resolution,
    seed: model.train.seed,
    triggerWords: model.trigger_words,
  };
}

export async function inferenceJob(
  sql: Sql,
  storage: Storage,
  server: ServerRow,
  image: ImageRow,
  task: Pick<TaskRow, "base_model">,
  model: ModelRow | null,
): Promise<EngineJob> {
  const fromKey = image.from_image?.replace("/api/files/", "");
  return {
    kind: "infer",
    checkpoint: checkpointOf(server, task.base_model),
    prompt: image.prompt,
    negativePrompt: image.negative_prompt,
    width: image.width,
    height: image.height,
    steps: image.num_inference_steps,
    guidanceScale: image.guidance_scale,
    scheduler: image.scheduler,
    seed: image.seed,
    from: fromKey ? { image: await inputFile(sql, storage, fromKey), strength: image.strength ?? 1 } : undefined,
    model: model?.model_path
      ? {
          type: model.type,
          file: await inputFile(sql, storage, model.model_path),
          weight: 1,
          triggerWords: model.trigger_words,
        }
      : undefined,
  };
}

/** How work is ordered: the rows of a training or of pictures to make, and the job that carries them on. */
import { randomInt } from "node:crypto";
import { z } from "zod";
import { addJob } from "../db/queue.ts";
import { type Catalogue, pickSchemas } from "../params/catalogue.ts";
import { limitText } from "../params/text.ts";
import { type Fault, Problem } from "../problems.ts";
import { type Context, type Input, ownedOrPublic } from "../rest/define.ts";
import { findFile, keyOfPath, longText, name, reference, resolvePicture, tagsInput, toTagIds } from "./common.ts";

const seeds = 2 ** 31;

const trainFields = ["resolution", "learning_rate", "rank", "batch_size", "seed"] as const;
export const modelFields = [
  "type",
  "trigger_words",
  "info",
  "base_model",
  "epochs",
  "train",
  "dataset_id",
  "image",
  "file",
];
export const imageFields = [
  "width",
  "height",
  "prompt",
  "negative_prompt",
  "num_inference_steps",
  "guidance_scale",
  "scheduler",
  "seed",
  "from_image",
  "strength",
];

export const modelShape = (catalogue: Catalogue) => ({
  name,
  type: catalogue.schema("model", "type"),
  trigger_words: limitText(z.string(), 1000),
  info: longText,
  base_model: catalogue.schema("model", "base_model"),
  epochs: catalogue.schema("model", "epochs"),
  train: z.strictObject(pickSchemas(catalogue, "model", trainFields)).partial(),
  public: z.boolean(),
  tags: tagsInput,
  dataset_id: reference,
  image: z.string().min(1).max(2000).nullable(),
  file: z.string().min(1).max(2000),
});

export const imageShape = (catalogue: Catalogue) => ({
  name,
  ...pickSchemas(catalogue, "image", [
    "width",
    "height",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "seed",
    "strength",
  ]),
  prompt: limitText(z.string().trim().min(1), catalogue.get("image", "prompt").maxLength ?? 10_000),
  from_image: z.string().min(1).max(2000).nullable(),
  model_id: reference.nullable(),
  base_model: catalogue.schema("image", "base_model"),
  public: z.boolean(),
  tags: tagsInput,
});

/** A row of `table` that the caller may see; a fault as if it did not exist otherwise. Locked against deletion. */
async function findReference(
  context: Context,
  table: string,
  columns: string[],
  pointer: string,
  wanted: unknown,
  faults: Fault[],
) {
  const { sql } = context;
  const [row] = await sql<Record<string, unknown>[]>`
    select ${sql(["id", ...columns])}
    from ${sql(table)} t
    where id = ${wanted as number}
      and ${ownedOrPublic(context)}
    for key share
  `;
  if (!row) faults.push({ pointer, detail: `there is no ${table.slice(0, -1)} ${wanted}` });
  return row ?? null;
}

/** The references of a new model: a data set to train on, or a file to register, and a cover. */
export async function checkModel(context: Context, input: Input, faults: Fault[]): Promise<void> {
  if (input.dataset_id !== undefined && input.file !== undefined) {
    faults.push({ pointer: "/file", detail: "cannot be given together with dataset_id" });
  } else if (input.dataset_id === undefined && input.file === undefined) {
    if (!faults.some((f) => "pointer" in f && /^\/(dataset_id|file)/.test(f.pointer))) {
      faults.push({ pointer: "/dataset_id", detail: "is required (or file, to register a model that exists)" });
    }
  }
  if (input.dataset_id !== undefined) {
    await findReference(context, "datasets", [], "/dataset_id", input.dataset_id, faults);
  }
  if (typeof input.file === "string") {
    const canonical = context.links.canonical(input.file, context.client.origin);
    const key = canonical && "own" in canonical ? keyOfPath(canonical.own) : null;
    const file = key === null ? null : await findFile(context, key);
    if (file?.kind === "model") Object.assign(input, { model_path: file.key, hash: file.hash });
    else faults.push({ pointer: "/file", detail: "there is no such model file; upload it to /api/files first" });
  }
  if (typeof input.image === "string") input.image = await resolvePicture(context, input.image, "/image", faults);
}

/** Inserts a model, and its training unless a file is registered. */
export async function addModel(context: Context, given: Input): Promise<{ modelId: number; taskId: number | null }> {
  const { sql, viewer, catalogue } = context;
  const { tags, file: _file, train, ...input } = given;
  const isRegistered = input.model_path !== undefined;
  const defaultOf = (field: string) => catalogue.get("model", field).default;
  const hyperparameters: Input = Object.fromEntries(
    trainFields.map((field) => [field, (train as Input | undefined)?.[field] ?? defaultOf(field)]),
  );
  hyperparameters.seed ??= randomInt(seeds);
  const row: Input = {
    name: "Model",
    type: defaultOf("type"),
    base_model: defaultOf("base_model"),
    epochs: defaultOf("epochs"),
    ...input,
    train: sql.json((isRegistered ? {} : hyperparameters) as never),
    tag_ids: await toTagIds(context, tags),
    user_id: viewer.id,
    ...(isRegistered ? { status: "success", progress: 100, epochs: input.epochs ?? defaultOf("epochs") } : {}),
  };
  const [model] = await sql<{ id: number }[]>`insert into models ${sql(row)} returning id`;
  const modelId = model?.id as number;
  return { modelId, taskId: isRegistered ? null : await addTraining(context, modelId) };
}

/** Adds a training of an existing model, with what the model's row says. @throws Problem "training-under-way" */
export async function addTraining({ sql }: Context, modelId: number): Promise<number> {
  const [task] = await sql<{ id: number }[]>`
    insert into tasks (name, type, base_model, params, public, user_id, model_id)
    select left('Training of ' || m.name, 120), 'train', m.base_model,
      jsonb_build_object('type', m.type, 'dataset_id', m.dataset_id, 'epochs', m.epochs) || m.train,
      m.public, m.user_id, m.id
    from models m
    where m.id = ${modelId}
    returning id
  `;
  const taskId = task?.id as number;
  await sql`
    update models set task_id = ${taskId}, status = 'initial', progress = 0, error = null where id = ${modelId}
  `;
  await addJob(sql, "prepare-task", { task_id: taskId });
  return taskId;
}

/** The references of pictures to make: a model that can be used, a picture to start from. */
export async function checkImage(context: Context, input: Input, faults: Fault[]): Promise<void> {
  if (typeof input.from_image === "string") {
    input.from_image = await resolvePicture(context, input.from_image, "/from_image", faults);
  } else if (input.strength !== undefined) {
    faults.push({ pointer: "/strength", detail: "needs from_image" });
  }
  if (input.model_id == null) return;
  const model = await findReference(
    context,
    "models",
    ["base_model", "model_path"],
    "/model_id",
    input.model_id,
    faults,
  );
  if (!model) return;
  if (input.base_model !== undefined && input.base_model !== model.base_model) {
    faults.push({ pointer: "/base_model", detail: `the model is for ${model.base_model}` });
  }
  input.base_model = model.base_model;
  // A conflict with the model's state, not a fault of the body: it is judged after all of those.
  if (model.model_path === null && faults.length === 0) {
    throw new Problem("model-not-ready", { detail: `Model ${input.model_id} has not been trained yet` });
  }
}

/** Inserts the images of one inference task, and the task. Seeds count up from the first, modulo 2^31. */
export async function addImages(
  context: Context,
  given: Input,
  options: { count: number; taskName?: string; priority?: number },
): Promise<{ taskId: number; imageIds: number[] }> {
  const { sql, viewer, catalogue } = context;
  const { tags, ...input } = given;
  const defaults = Object.fromEntries(
    ["width", "height", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "base_model"].map(
      (field) => [field, catalogue.get("image", field).default],
    ),
  );
  const first = (input.seed as number | undefined) ?? randomInt(seeds);
  const shared: Input = {
    name: [...(input.prompt as string)].slice(0, 60).join(""),
    ...defaults,
    ...input,
    strength: input.from_image ? (input.strength ?? catalogue.get("image", "strength").default) : null,
    from_image: input.from_image ?? null,
    model_id: input.model_id ?? null,
    tag_ids: await toTagIds(context, tags),
    user_id: viewer.id,
  };
  const task: Input = {
    name: options.taskName ?? shared.name,
    type: "infer",
    base_model: shared.base_model,
    priority: options.priority ?? 0,
    public: shared.public ?? false,
    user_id: viewer.id,
    model_id: shared.model_id,
    params: sql.json({ ...shared, tag_ids: undefined, seed: first, count: options.count } as never),
  };
  const [added] = await sql<{ id: number }[]>`insert into tasks ${sql(task)} returning id`;
  const taskId = added?.id as number;
  const rows = Array.from({ length: options.count }, (_, i) => ({
    ...shared,
    seed: (first + i) % seeds,
    task_id: taskId,
  }));
  const images = await sql<{ id: number }[]>`insert into images ${sql(rows as Input[])} returning id`;
  await addJob(sql, "prepare-task", { task_id: taskId });
  return { taskId, imageIds: images.map((image) => image.id) };
}

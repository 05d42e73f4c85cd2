/** How work is ordered: the rows of a training or of pictures to make, and the job that carries them on. */
import { randomInt } from "node:crypto";
import { z } from "zod";
import { addJob, addJobs } from "../db/queue.ts";
import { type Catalogue, pickSchemas } from "../params/catalogue.ts";
import { limitText } from "../params/text.ts";
import { type Fault, Problem } from "../problems.ts";
import { type Context, type Input, ownedOrPublic } from "../rest/define.ts";
import { readClaims } from "../storage/claims.ts";
import { checkServers, limitWaiting } from "./capacity.ts";
import {
  findFile,
  insertAll,
  keyOfPath,
  longText,
  name,
  reference,
  resolvePicture,
  type StoredFile,
  tagsInput,
  toTagIds,
  toTagIdsOfAll,
} from "./common.ts";
import { toTerms } from "./terms.ts";

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
    where id = ${wanted as number}::bigint
      and ${ownedOrPublic(context)}
    for key share
  `;
  if (!row) faults.push({ pointer, detail: `there is no ${table.slice(0, -1)} ${wanted}` });
  return row ?? null;
}

/**
 * The references of a new model: a data set to train on, or a file to register, and a cover; and whether there is a
 * server to train it. @param typeField what the body calls the model's type
 */
export async function checkModel(
  context: Context,
  input: Input,
  faults: Fault[],
  typeField: "type" | "model_type" = "type",
): Promise<void> {
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
    if (file?.kind === "model") register(input, file, faults);
    else faults.push({ pointer: "/file", detail: "there is no such model file; upload it to /api/files first" });
  }
  if (typeof input.image === "string") input.image = await resolvePicture(context, input.image, "/image", faults);
  if (input.file !== undefined) return;
  const choose = (field: string, given: unknown) => given ?? context.catalogue.get("model", field).default;
  const resolution = choose("resolution", (input.train as Input | undefined)?.resolution);
  const wanted = { type: choose("type", input[typeField]), resolution };
  const order = { type: "train", base_model: choose("base_model", input.base_model), params: wanted } as const;
  await checkServers(
    context,
    order,
    { base_model: "/base_model", model_type: `/${typeField}`, pixels: "/train/resolution" },
    faults,
  );
}

/** What the caller leaves open is as the file says of itself. */
function register(input: Input, file: StoredFile, faults: Fault[]): void {
  const { architecture, base_model, type, name, trigger_words } = readClaims(file.metadata);
  Object.assign(input, { model_path: file.key, hash: file.hash });
  if (input.base_model === undefined && architecture !== null && base_model === null) {
    const detail = `the file is for ${architecture}, which is not served here; name a base model if it fits all the same`;
    faults.push({ pointer: "/base_model", detail });
  }
  // Kept from a training, unread: nothing but these is ever saved so.
  if (file.key.endsWith(".pt") && input.type !== "ti" && input.type !== "hyper") {
    faults.push({ pointer: "/type", detail: "must be ti or hyper for this file" });
  }
  const cut = (text: string | null, length: number) => [...(text ?? "").trim()].slice(0, length).join("");
  const claims = { base_model, type, trigger_words: cut(trigger_words, 1000), name: cut(name, 120) };
  for (const [field, claim] of Object.entries(claims)) if (claim) input[field] ??= claim;
}

/** Inserts a model, and its training unless a file is registered. */
export async function addModel(
  context: Context,
  given: Input,
  order: Input = {},
): Promise<{ modelId: number; taskId: number | null }> {
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
  return { modelId, taskId: isRegistered ? null : await addTraining(context, modelId, order) };
}

/**
 * Adds a training of an existing model, with what the model's row says.
 * @param order the task's name, if it has one of its own, and its terms
 * @throws Problem "training-under-way"
 */
export async function addTraining(context: Context, modelId: number, order: Input = {}): Promise<number> {
  const { sql } = context;
  await limitWaiting(context, 1);
  const terms = toTerms(context, order);
  const [task] = await sql<{ id: number }[]>`
    insert into tasks (name, type, base_model, params, public, user_id, model_id,
      priority, start_before, max_seconds, webhook, webhook_events)
    select coalesce(${(order.name as string) ?? null}, left('Training of ' || m.name, 120)), 'train', m.base_model,
      jsonb_build_object('type', m.type, 'dataset_id', m.dataset_id, 'epochs', m.epochs) || m.train,
      m.public, m.user_id, m.id,
      ${terms.priority}::int, ${terms.start_before}::timestamptz, ${terms.max_seconds}::int, ${terms.webhook}::text,
      ${terms.webhook_events}::text[]
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
  if (input.model_id != null) await checkAppliedModel(context, input, faults);
  const choose = (field: string) => input[field] ?? context.catalogue.get("image", field).default;
  const params = { scheduler: choose("scheduler"), width: choose("width"), height: choose("height") };
  const order = { type: "infer", base_model: choose("base_model"), model_id: input.model_id ?? null, params } as const;
  const isOwnBase = input.model_id == null;
  await checkServers(
    context,
    order,
    {
      base_model: isOwnBase ? "/base_model" : "/model_id",
      model_type: "/model_id",
      model_megabytes: "/model_id",
      scheduler: "/scheduler",
      pixels: "/width",
    },
    faults,
  );
}

/** A model to make pictures with: one that the caller may see, for the base model that is asked for. */
async function checkAppliedModel(context: Context, input: Input, faults: Fault[]): Promise<void> {
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

/** Pictures to make by one task. */
export interface Order {
  input: Input;
  count: number;
  /** The task's name, the pictures' own when left out, and its terms. */
  task: Input;
}

/** Inserts the images of inference tasks, and the tasks. Seeds count up from the first, modulo 2^31. */
export async function addImages(context: Context, orders: Order[]): Promise<{ taskId: number; imageIds: number[] }[]> {
  if (orders.length === 0) return [];
  const { sql } = context;
  await limitWaiting(context, orders.length);
  const tagIds = await toTagIdsOfAll(
    context,
    orders.map(({ input }) => input),
  );
  const shared = orders.map(({ input }) => toImage(context, input));
  const tasks = orders.map(({ count, task }, i) => {
    const image = shared[i] as Input;
    return {
      ...toTerms(context, task),
      name: task.name ?? image.name,
      type: "infer",
      base_model: image.base_model,
      public: image.public,
      user_id: image.user_id,
      model_id: image.model_id,
      params: sql.json({ ...image, count } as never),
    };
  });
  const taskIds = (await insertAll(sql, "tasks", tasks)).map(({ id }) => id);
  const rows = orders.flatMap(({ count }, i) =>
    Array.from({ length: count }, (_, n) => ({
      ...shared[i],
      tag_ids: tagIds[i],
      seed: ((shared[i]?.seed as number) + n) % seeds,
      task_id: taskIds[i],
    })),
  );
  const images = await insertAll(sql, "images", rows);
  await addJobs(
    sql,
    "prepare-task",
    taskIds.map((task_id) => ({ task_id })),
  );
  let next = 0;
  return orders.map(({ count }, i) => {
    const imageIds = images.slice(next, next + count).map(({ id }) => id);
    next += count;
    return { taskId: taskIds[i] as number, imageIds };
  });
}

/** What the pictures of one task share; the seed is the first one's. */
function toImage({ viewer, catalogue }: Context, { tags: _names, ...input }: Input): Input {
  const defaults = Object.fromEntries(
    ["width", "height", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "base_model"].map(
      (field) => [field, catalogue.get("image", field).default],
    ),
  );
  return {
    name: [...(input.prompt as string)].slice(0, 60).join(""),
    public: false,
    seed: randomInt(seeds),
    ...defaults,
    ...input,
    strength: input.from_image ? (input.strength ?? catalogue.get("image", "strength").default) : null,
    from_image: input.from_image ?? null,
    model_id: input.model_id ?? null,
    user_id: viewer.id,
  };
}

/** Tasks: what a user asked the GPU servers for, from acceptance to outcome. */
import { z } from "zod";
import { addJobs, dispatchSoon } from "../db/queue.ts";
import { type Catalogue, storedSchema } from "../params/catalogue.ts";
import { type Fault, Problem } from "../problems.ts";
import {
  type Columns,
  type Context,
  defineResource,
  type Input,
  isOwnerOrAdmin,
  ownedOrPublic,
  type Row,
  visibleReference,
} from "../rest/define.ts";
import { all } from "../rest/pipeline.ts";
import {
  commonSorts,
  createdAt,
  errorField,
  id,
  isMine,
  name,
  nullableReference,
  previewField,
  reference,
  samplesField,
  shownName,
  updatedAt,
} from "./common.ts";
import { checkTerms, shownTerms, termFields, termsShape, withoutTerms } from "./terms.ts";
import {
  addImages,
  addModel,
  addTraining,
  checkImage,
  checkModel,
  imageFields,
  imageShape,
  modelFields,
  modelShape,
} from "./work.ts";

const unfinished = ["initial", "ready", "waiting", "running"];

/** `type` decides which other fields there are; the model's own type is `model_type` here. */
const createShape = (catalogue: Catalogue) => {
  const model = modelShape(catalogue);
  return {
    ...model,
    ...imageShape(catalogue),
    type: catalogue.schema("task", "type"),
    model_type: model.type,
    count: catalogue.schema("task", "count"),
    ...termsShape(catalogue),
  };
};

const onlyTraining = [...modelFields.filter((field) => !["type", "base_model"].includes(field)), "model_type"];
const onlyInference = [...imageFields, "count"];
/** What may be said of a task that trains a model again. */
const ordered = new Set(["type", "model_id", "name", ...termFields]);

async function check(context: Context, input: Input, faults: Fault[]): Promise<void> {
  const { type } = input;
  checkTerms(context, input, faults);
  if (type === undefined) return;
  const foreign = type === "train" ? onlyInference : onlyTraining;
  for (const field of foreign.filter((field) => field in input)) {
    faults.push({ pointer: `/${field}`, detail: `does not go with type ${type}` });
  }
  if (type === "infer") {
    const isPromptFaulty = faults.some((f) => "pointer" in f && f.pointer === "/prompt");
    if (input.prompt === undefined && !isPromptFaulty) faults.push({ pointer: "/prompt", detail: "is required" });
    await checkImage(context, input, faults);
  } else if (input.model_id === undefined) {
    await checkModel(context, input, faults, "model_type");
  } else {
    const extra = Object.keys(input).filter((field) => !ordered.has(field));
    for (const field of extra) faults.push({ pointer: `/${field}`, detail: "cannot be changed by training again" });
    await checkTrainable(context, input.model_id as number, faults);
  }
}

/** Training again is a write to the model: its owner's or an admin's. */
async function checkTrainable(context: Context, modelId: number, faults: Fault[]): Promise<void> {
  const [model] = await context.sql<{ user_id: number; dataset_id: number | null }[]>`
    select user_id, dataset_id from models t where id = ${modelId}::bigint and ${ownedOrPublic(context)} for update
  `;
  if (!model) faults.push({ pointer: "/model_id", detail: `there is no model ${modelId}` });
  else if (!context.viewer.admin && model.user_id !== context.viewer.id) {
    throw new Problem("forbidden", { detail: "Only its owner may train a model again" });
  } else if (model.dataset_id === null) {
    faults.push({ pointer: "/model_id", detail: "the model has no data set to be trained on" });
  }
}

async function insert(context: Context, inputs: Input[]): Promise<{ id: number }[]> {
  const inferences = inputs.filter(({ type }) => type === "infer");
  const orders = inferences.map((given) => {
    const { type: _type, count, ...input } = withoutTerms(given);
    return { input, count: (count as number | undefined) ?? 1, task: given };
  });
  const added = await addImages(context, orders);
  const taskIds = new Map(inferences.map((input, i) => [input, added[i]?.taskId]));
  return all(inputs, async (input) => ({ id: taskIds.get(input) ?? (await insertTraining(context, input)) }));
}

async function insertTraining(context: Context, given: Input): Promise<number> {
  if (given.model_id !== undefined) return addTraining(context, given.model_id as number, given);
  const { type: _type, model_type, ...input } = withoutTerms(given);
  const model = { ...input, ...(model_type === undefined ? {} : { type: model_type }) };
  const { taskId } = await addModel(context, model, given);
  if (taskId === null) throw new Problem("invalid", { detail: "A file is registered with POST /api/models" });
  return taskId;
}

/** Cancels or tries again, by the status asked for: what each task gets beside `columns`. */
async function changeStatus(context: Context, wanted: string, columns: Columns, rows: Row[]): Promise<Columns[]> {
  const { sql } = context;
  const changing = rows.filter((row) =>
    wanted === "canceled" ? row.status !== "canceled" : !unfinished.includes(row.status as string),
  );
  const success = changing.find((row) => row.status === "success");
  if (success) {
    throw wanted === "canceled"
      ? new Problem("conflict", { detail: `Task ${success.id} has ended with success` })
      : new Problem("task-not-retryable", { detail: `Task ${success.id} has succeeded; it cannot go again` });
  }
  // Their rows are locked by now.
  await sql`select lock_lines(${changing.map((row) => row.id as number)}::int[])`;
  if (wanted === "canceled") {
    const failed = changing.find((row) => row.status === "error");
    if (failed) throw new Problem("conflict", { detail: `Task ${failed.id} has ended with error` });
    const canceled = { ...columns, status: "canceled", finished_at: sql`now()` };
    return rows.map((row) => (changing.includes(row) ? canceled : columns));
  }
  const kept = await retry(context, changing);
  const again = {
    ...columns,
    progress: 0,
    error: null,
    finished_at: null,
    stage: null,
    not_before: null,
    avoid: sql`'{}'`,
    tries: 0,
  };
  const waiting = { ...again, status: "waiting", waiting_at: sql`now()` };
  const initial = { ...again, status: "initial" };
  return rows.map((row) => (!changing.includes(row) ? columns : kept.has(row.id) ? waiting : initial));
}

/**
 * Sets ended tasks going again. What was prepared once, and still lies in our own storage, goes straight back into the
 * queue.
 * @returns the ids of those
 * @throws Problem "task-not-retryable" when what a task makes is gone
 */
async function retry({ sql }: Context, rows: Row[]): Promise<Set<number | string>> {
  const ids = rows.map((row) => row.id as number);
  const outputs = await sql<{ id: number }[]>`
    with retrained as (
      update models m set task_id = k.id from tasks k
      where k.id = any (${ids}::int[]) and k.type = 'train' and m.id = k.model_id
      returning k.id
    )
    select id from retrained
    union
    select task_id from images where task_id = any (${ids}::int[])
  `;
  const found = new Set(outputs.map((row) => row.id));
  const lost = ids.find((id) => !found.has(id));
  if (lost) throw new Problem("task-not-retryable", { detail: `What task ${lost} makes is gone` });
  // Their deletion may have been ordered when the tasks ended: it waits now, and then finds them in use again.
  await sql`
    select from files
    where key = any (array(select unnest(input_keys) from tasks where id = any (${ids}::int[])))
    order by key
    for key share
  `;
  const kept = await sql<{ id: number }[]>`
    select id from tasks
    where id = any (${ids}::int[])
      and waiting_at is not null
      and input_keys <@ array(select key from files where key = any (input_keys))
  `;
  const keptIds = new Set<number | string>(kept.map((row) => row.id));
  if (kept.length > 0) await dispatchSoon(sql);
  const rest = ids.filter((id) => !keptIds.has(id));
  await addJobs(
    sql,
    "prepare-task",
    rest.map((id) => ({ task_id: id })),
  );
  return keptIds;
}

export const tasks = defineResource({
  name: "tasks",
  singular: "task",
  about:
    "What users asked the GPU servers for, from acceptance to outcome. `type: infer` takes the fields of an image and `count`; `type: train` those of a model (its own type as `model_type`), or `model_id` alone to train that model again. PATCH `status: canceled` cancels, `status: waiting` tries again.",
  id: "integer",
  owner: "t.user_id",
  isBulk: true,
  fields: {
    id,
    name: shownName,
    type: { schema: storedSchema("task", "type") },
    status: { schema: storedSchema("task", "status") },
    progress: { schema: z.int().min(0).max(100) },
    stage: { schema: z.enum(["loading", "steps", "saving"]).nullable() },
    public: { schema: z.boolean() },
    ...shownTerms,
    base_model: { schema: storedSchema("task", "base_model") },
    params: {
      schema: z.record(z.string(), z.unknown()).nullable(),
      select: (context) => context.sql`case when ${isMine(context)} then t.params end`,
    },
    error: errorField,
    preview: previewField((sql) => sql`p.task_id = t.id`),
    samples: samplesField,
    metrics: {
      schema: z.array(z.tuple([z.number(), z.number()])).meta({
        description: "Loss of a training, as [step, loss]; empty where the engine tells none, as ComfyUI does",
      }),
    },
    pictures: {
      schema: z
        .record(z.string(), z.int())
        .nullable()
        .meta({
          description:
            "Of a training, to its owner: how many pictures of the data set got which verdict; only those that are ok are learned from",
          examples: [{ ok: 95, "too small": 5 }],
        }),
      select: (context) => context.sql`case when ${isMine(context)} then t.pictures end`,
    },
    attempts: { schema: z.int() },
    // Filled in below.
    queue_position: {
      schema: z.int().positive().nullable().meta({ description: "Tasks that have their turn first, and itself" }),
      live: ({ status }) => status === "waiting",
      select: ({ sql }) => sql`null::int`,
    },
    eta: {
      schema: z
        .object({ p50: z.iso.datetime(), p90: z.iso.datetime() })
        .nullable()
        .meta({ description: "When it is expected to end: half of such tasks do by p50, nine of ten by p90" }),
      live: ({ status }) => status === "waiting" || status === "running",
      select: ({ sql }) => sql`null::jsonb`,
    },
    user_id: { schema: reference },
    model_id: { schema: nullableReference, select: visibleReference("model_id", "models") },
    image_ids: {
      schema: z.array(reference),
      select: ({ sql, viewer }) => sql`
        array(
          select i.id from images i
          where i.task_id = t.id
            and (i.public or i.user_id is not distinct from ${viewer.id} or ${viewer.admin})
          order by i.id
        )
      `,
    },
    server_id: { schema: nullableReference },
    waiting_at: { schema: z.iso.datetime().nullable() },
    started_at: { schema: z.iso.datetime().nullable() },
    finished_at: { schema: z.iso.datetime().nullable() },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  enliven: {
    // As PostgreSQL prints it; inside of a text the quotes would be escaped.
    concerns: (json) => json.includes('"status":"waiting"') || json.includes('"status":"running"'),
    async fill({ sql, outlook }, objects) {
      const found = await outlook.find(
        sql,
        objects.map(({ id }) => id as number),
      );
      for (const object of objects) Object.assign(object, found.get(object.id as number));
    },
  },
  filters: {
    id: { kind: "id", column: "id" },
    user_id: { kind: "id", column: "user_id" },
    public: { kind: "boolean", column: "public" },
    type: { kind: "enum", column: "type", entry: "task", field: "type" },
    status: { kind: "enum", column: "status", entry: "task", field: "status" },
    base_model: { kind: "enum", column: "base_model", entry: "task", field: "base_model" },
    model_id: {
      kind: "id",
      column: "model_id",
      visible: (context) => context.sql`select t.id from models t where ${ownedOrPublic(context)}`,
    },
    server_id: { kind: "id", column: "server_id" },
    name: { kind: "text", column: "name" },
  },
  sorts: commonSorts,
  lists: { counted: ["user_id", "name", "type", "status", "base_model", "model_id", "server_id"], isOwned: true },
  isSearchable: true,
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  insiders: ({ sql }) => sql`
    array(
      select user_id from models where id = t.model_id
      union select user_id from images where task_id = t.id
    )
  `,
  create: {
    by: "users",
    shape: createShape,
    required: ["type"],
    examples: {
      pictures: { type: "infer", prompt: "a cuckoo on a branch, watercolour", count: 4, seed: 7 },
      training: { type: "train", name: "布穀鳥", dataset_id: 1, model_type: "lora" },
      again: { type: "train", model_id: 1 },
    },
    adminFields: ["priority"],
    throws: ["forbidden", "model-not-ready", "training-under-way", "too-many-waiting"],
    check,
    insert,
  },
  patch: {
    shape: (catalogue) => ({
      name,
      ...termsShape(catalogue),
      status: z.enum(["canceled", "waiting"]),
    }),
    adminFields: ["priority"],
    check: async (context, input, faults) => checkTerms(context, input, faults),
    throws: ["conflict", "task-not-retryable", "training-under-way"],
    async change(context, { status, ...columns }, rows) {
      return status === undefined ? columns : changeStatus(context, status as string, columns, rows);
    },
  },
  remove: {
    // Unfinished outputs go with the task: the cancel reaches them first. Finished images stay, and so does a model that
    // an earlier training has made.
    async before({ sql }, rows) {
      const ids = rows.map((row) => row.id as number);
      await sql`select lock_lines(${ids}::int[])`;
      await sql`
        update tasks set status = 'canceled', finished_at = now()
        where id = any (${ids}::int[]) and status in ('initial', 'ready', 'waiting', 'running')
      `;
      await sql`delete from images where task_id = any (${ids}::int[]) and status <> 'success'`;
      await sql`delete from models where task_id = any (${ids}::int[]) and model_path is null`;
    },
  },
});

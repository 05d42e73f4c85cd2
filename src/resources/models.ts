/** Models: trained here from a data set, or registered from a file. Private to their owner until published. */
import { z } from "zod";
import { storedSchema } from "../params/catalogue.ts";
import { defineResource, isOwnerOrAdmin, ownedOrPublic, visibleReference } from "../rest/define.ts";
import { all } from "../rest/pipeline.ts";
import {
  commonSorts,
  createdAt,
  errorField,
  id,
  nullableReference,
  previewField,
  reference,
  resolvePicture,
  shownName,
  shownPath,
  tags,
  updatedAt,
  withTagIds,
} from "./common.ts";
import { addModel, checkModel, modelShape } from "./work.ts";

export const models = defineResource({
  name: "models",
  singular: "model",
  about:
    "Models: trained here from a data set (`dataset_id`), or registered from an upload (`file`); POST needs one of the two. Private to their owner until published.",
  id: "integer",
  owner: "t.user_id",
  isBulk: true,
  fields: {
    id,
    name: shownName,
    info: { schema: z.string() },
    type: { schema: storedSchema("model", "type") },
    trigger_words: { schema: z.string() },
    base_model: { schema: storedSchema("model", "base_model") },
    model_path: { schema: z.string().nullable() },
    status: { schema: storedSchema("model", "status") },
    progress: { schema: z.int().min(0).max(100) },
    error: errorField,
    image: { schema: z.string().nullable(), select: (context) => shownPath(context.sql`t.image`, context, true) },
    hash: { schema: z.string().nullable() },
    autov2: {
      schema: z.string().nullable().meta({ description: "The first ten digits of `hash`, found by `search`" }),
    },
    metadata: {
      schema: z.record(z.string(), z.string()).meta({ description: "What its file says of itself; unverified" }),
    },
    preview: previewField((sql) => sql`p.task_id = t.task_id and p.image_id is null`),
    epochs: { schema: storedSchema("model", "epochs") },
    train: { schema: z.record(z.string(), z.unknown()) },
    public: { schema: z.boolean() },
    uses: { schema: z.int() },
    tags,
    user_id: { schema: reference },
    dataset_id: { schema: nullableReference, select: visibleReference("dataset_id", "datasets") },
    task_id: { schema: nullableReference, select: visibleReference("task_id", "tasks") },
    server_id: { schema: nullableReference },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  filters: {
    id: { kind: "id", column: "id" },
    user_id: { kind: "id", column: "user_id" },
    public: { kind: "boolean", column: "public" },
    tag: { kind: "tag", column: "tag_ids" },
    type: { kind: "enum", column: "type", entry: "model", field: "type" },
    status: { kind: "enum", column: "status", entry: "model", field: "status" },
    base_model: { kind: "enum", column: "base_model", entry: "model", field: "base_model" },
    dataset_id: {
      kind: "id",
      column: "dataset_id",
      visible: (context) => context.sql`select t.id from datasets t where ${ownedOrPublic(context)}`,
    },
    task_id: {
      kind: "id",
      column: "task_id",
      visible: (context) => context.sql`select t.id from tasks t where ${ownedOrPublic(context)}`,
    },
    server_id: { kind: "id", column: "server_id" },
    name: { kind: "text", column: "name" },
    hash: { kind: "text", column: "hash" },
  },
  sorts: { ...commonSorts, hot: { by: "hot", direction: "desc" } },
  lists: {
    counted: ["user_id", "name", "type", "status", "base_model", "dataset_id", "server_id"],
    tags: { postings: "model_tags", columns: ["type", "base_model"] },
    isOwned: true,
  },
  isSearchable: true,
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  insiders: ({ sql }) => sql`
    array(
      select user_id from datasets where id = t.dataset_id
      union select user_id from tasks where id = t.task_id
      union select user_id from files where key = substr(t.image, 12)
    )
  `,
  create: {
    by: "users",
    shape: modelShape,
    required: [],
    needsOneOf: ["dataset_id", "file"],
    examples: {
      train: { name: "布穀鳥", dataset_id: 1, trigger_words: "cuckoo", epochs: 1000, train: { resolution: 512 } },
      register: { name: "布穀鳥", file: "/api/files/0b9c2f7e6d.safetensors", base_model: "SD1.5" },
    },
    throws: ["too-many-waiting"],
    check: (context, input, faults) => checkModel(context, input, faults),
    insert: (context, inputs) => all(inputs, async (input) => ({ id: (await addModel(context, input)).modelId })),
  },
  patch: {
    shape(catalogue) {
      const { name, info, trigger_words, image, tags, public: isPublic } = modelShape(catalogue);
      return { name, info, trigger_words, image, tags, public: isPublic };
    },
    async check(context, input, faults) {
      if (typeof input.image === "string") input.image = await resolvePicture(context, input.image, "/image", faults);
    },
    change: withTagIds,
  },
  remove: {},
});

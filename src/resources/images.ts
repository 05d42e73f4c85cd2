/** Images: pictures made, or being made, from a prompt. Private to their owner until published. */
import { z } from "zod";
import { defineResource, isOwnerOrAdmin, ownedOrPublic, visibleReference } from "../rest/define.ts";
import {
  commonSorts,
  createdAt,
  errorField,
  id,
  name,
  nullableReference,
  prepareFiles,
  reference,
  showSource,
  tags,
  tagsInput,
  updatedAt,
  withTagIds,
} from "./common.ts";
import { addImages, checkImage, imageShape } from "./work.ts";

/** The picture's own files belong to the row's owner: who sees the row may load them. */
const ownFile = { schema: z.string().nullable() };

export const images = defineResource({
  name: "images",
  singular: "image",
  id: "integer",
  owner: "t.user_id",
  isBulk: true,
  fields: {
    id,
    name: { schema: z.string() },
    width: { schema: z.int() },
    height: { schema: z.int() },
    prompt: { schema: z.string() },
    negative_prompt: { schema: z.string() },
    num_inference_steps: { schema: z.int() },
    guidance_scale: { schema: z.number() },
    scheduler: { schema: z.string() },
    seed: { schema: z.int() },
    from_image: { schema: z.string().nullable(), shape: showSource },
    strength: { schema: z.number().nullable() },
    base_model: { schema: z.enum(["SD1.5", "SD2"]) },
    url: {
      ...ownFile,
      select: ({ sql }) => sql`t.file_key`,
      shape: (key, row, { links }) => (key ? links.file(key as string, { isSigned: !row.public }) : null),
    },
    thumbnail: {
      ...ownFile,
      select: ({ sql }) => sql`t.thumbnail_key`,
      shape: (key, row, { links }) => (key ? links.file(key as string, { isSigned: !row.public }) : null),
    },
    status: { schema: z.enum(["initial", "ready", "waiting", "running", "success", "error"]) },
    progress: { schema: z.int().min(0).max(100) },
    error: errorField,
    public: { schema: z.boolean() },
    tags,
    user_id: { schema: reference },
    model_id: { schema: nullableReference, select: visibleReference("model_id", "models") },
    task_id: { schema: nullableReference, select: visibleReference("task_id", "tasks") },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  filters: {
    id: { kind: "id", column: "id" },
    user_id: { kind: "id", column: "user_id" },
    public: { kind: "boolean", column: "public" },
    tag: { kind: "tag", column: "tag_ids" },
    status: { kind: "enum", column: "status", entry: "image", field: "status" },
    scheduler: { kind: "enum", column: "scheduler", entry: "image", field: "scheduler" },
    base_model: { kind: "enum", column: "base_model", entry: "image", field: "base_model" },
    model_id: {
      kind: "id",
      column: "model_id",
      visible: (context) => context.sql`select t.id from models t where ${ownedOrPublic(context)}`,
    },
    task_id: {
      kind: "id",
      column: "task_id",
      visible: (context) => context.sql`select t.id from tasks t where ${ownedOrPublic(context)}`,
    },
    name: { kind: "text", column: "name" },
  },
  sorts: { ...commonSorts, hot: { by: "hot", direction: "desc" } },
  lists: {
    counted: ["user_id", "name", "status", "scheduler", "base_model", "model_id"],
    tags: "image_tags",
    isOwned: true,
  },
  isSearchable: true,
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  prepare: prepareFiles((row) => [row.from_image as string | null]),
  create: {
    by: "users",
    shape: imageShape,
    required: ["prompt"],
    check: checkImage,
    async insert(context, inputs) {
      const orders = inputs.map((input) => ({ input, count: 1 }));
      return (await addImages(context, orders)).map(({ imageIds }) => ({ id: imageIds[0] as number }));
    },
  },
  patch: {
    shape: () => ({ name, tags: tagsInput, public: z.boolean() }),
    change: withTagIds,
  },
  remove: {},
});

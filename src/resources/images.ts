/** Images: pictures made, or being made, from a prompt. Private to their owner until published. */
import { z } from "zod";
import { storedSchema } from "../params/catalogue.ts";
import { defineResource, isOwnerOrAdmin, ownedOrPublic, visibleReference } from "../rest/define.ts";
import {
  commonSorts,
  createdAt,
  errorField,
  id,
  name,
  nullableReference,
  ownThumbnail,
  ownUrl,
  previewField,
  reference,
  shownName,
  shownPath,
  tags,
  tagsInput,
  updatedAt,
  withTagIds,
} from "./common.ts";
import { addImages, checkImage, imageShape } from "./work.ts";

export const images = defineResource({
  name: "images",
  singular: "image",
  about: "Pictures made, or being made, from a prompt. Private to their owner until published.",
  id: "integer",
  owner: "t.user_id",
  isBulk: true,
  fields: {
    id,
    name: shownName,
    width: { schema: storedSchema("image", "width") },
    height: { schema: storedSchema("image", "height") },
    prompt: { schema: storedSchema("image", "prompt") },
    negative_prompt: { schema: storedSchema("image", "negative_prompt") },
    num_inference_steps: { schema: storedSchema("image", "num_inference_steps") },
    guidance_scale: { schema: storedSchema("image", "guidance_scale") },
    scheduler: { schema: storedSchema("image", "scheduler") },
    seed: { schema: storedSchema("image", "seed") },
    from_image: {
      schema: z.string().nullable(),
      select: (context) => shownPath(context.sql`t.from_image`, context, false),
    },
    strength: { schema: storedSchema("image", "strength").nullable() },
    base_model: { schema: storedSchema("image", "base_model") },
    url: { schema: z.string().nullable(), select: ownUrl("file_key") },
    thumbnail: { schema: z.string().nullable(), select: ownThumbnail(512) },
    thumbnail_small: { schema: z.string().nullable(), select: ownThumbnail(256) },
    thumbhash: { schema: z.string().nullable() },
    preview: previewField((sql) => sql`p.image_id = t.id`),
    status: { schema: storedSchema("image", "status") },
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
    tags: { postings: "image_tags", columns: ["scheduler", "base_model", "model_id"] },
    isOwned: true,
  },
  isSearchable: true,
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  insiders: ({ sql }) => sql`
    array(
      select user_id from models where id = t.model_id
      union select user_id from tasks where id = t.task_id
      union select user_id from files where key = substr(t.from_image, 12)
    )
  `,
  create: {
    by: "users",
    shape: imageShape,
    required: ["prompt"],
    examples: {
      simple: { prompt: "a cuckoo on a branch, watercolour" },
      variation: { prompt: "the same in winter", from_image: "/api/images/1", strength: 0.6, seed: 7 },
    },
    throws: ["model-not-ready", "too-many-waiting"],
    check: checkImage,
    async insert(context, inputs) {
      const orders = inputs.map((input) => ({ input, count: 1, task: {} }));
      return (await addImages(context, orders)).map(({ imageIds }) => ({ id: imageIds[0] as number }));
    },
  },
  patch: {
    shape: () => ({ name, tags: tagsInput, public: z.boolean() }),
    change: withTagIds,
  },
  remove: {},
});

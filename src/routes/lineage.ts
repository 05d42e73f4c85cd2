/** `GET /api/images/{id}/lineage`: where a picture comes from, down to the files that its model learned from. */
import { Hono } from "hono";
import { z } from "zod";
import { isProblem } from "../problems.ts";
import { datasets } from "../resources/datasets.ts";
import { images } from "../resources/images.ts";
import { models } from "../resources/models.ts";
import { tasks } from "../resources/tasks.ts";
import type { Context, Input, Resource } from "../rest/define.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { detail } from "../rest/read.ts";
import { thumbnailKey } from "../storage/keys.ts";

const pick = <R extends { fields: Record<string, { schema: z.ZodType }> }>(resource: R, names: (keyof R["fields"])[]) =>
  z.object(Object.fromEntries(names.map((name) => [name, resource.fields[name as string]?.schema ?? z.unknown()])));

const shown = {
  image: ["id", "name", "url", "thumbnail", "thumbhash", "public", "user_id", "task_id", "created_at"],
  params: [
    ...["prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler", "seed"],
    ...["base_model", "from_image", "strength"],
  ],
  model: ["id", "name", "type", "base_model", "trigger_words", "hash", "autov2", "metadata", "public", "user_id"],
  training: ["id", "name", "status", "params", "server_id", "started_at", "finished_at"],
  dataset: ["id", "name", "public", "user_id"],
} as const;

const learned = z.object({
  hash: z.string().nullable().meta({ description: "SHA-256 of the picture that was learned from" }),
  caption: z.string(),
  source: z.string().nullable().meta({ description: "As the data set named it" }),
  file: z
    .object({
      url: z.url(),
      thumbnail: z.url().nullable(),
      size: z.int(),
      content_type: z.string(),
      width: z.int().nullable(),
      height: z.int().nullable(),
    })
    .nullable()
    .meta({ description: "null: not stored any more, or not the viewer's to see" }),
});

export const lineage = z.object({
  image: pick(images, [...shown.image]),
  params: pick(images, [...shown.params] as (keyof typeof images.fields)[]),
  model_hash: z
    .string()
    .nullable()
    .meta({ description: "SHA-256 of the model file that made it; the model may have been trained again since" }),
  model: pick(models, [...shown.model]).nullable(),
  training: pick(tasks, [...shown.training]).nullable(),
  dataset: pick(datasets, [...shown.dataset]).nullable(),
  manifest: z.array(learned).nullable(),
});

export function lineageRoutes() {
  const routes = new Hono<Env>();
  routes.get("/:id/lineage", async (c) => {
    refuseQuery(c.req.url);
    return c.json(await readLineage(c.get("context"), c.req.param("id")));
  });
  return routes;
}

interface Links {
  model_id: number | null;
  model_hash: string | null;
  task_id: number | null;
  dataset_id: number | null;
  owner_id: number | null;
  manifest: { key: string; hash: string | null; caption: string; url: string }[] | null;
}

/** @throws Problem "not-found" */
async function readLineage(context: Context, idText: string) {
  const image: Input = JSON.parse((await detail(images, idText, context)).json);
  const links = await findLinks(context, image.id as number);
  const model = await find(models, links.model_id, context);
  const training = model && (await find(tasks, links.task_id, context));
  const dataset = model && (await find(datasets, links.dataset_id, context));
  const { viewer } = context;
  const isOwn = viewer.admin || (viewer.id !== null && viewer.id === links.owner_id);
  // What was learned from is the model's owner's affair, unless the data set is there for all to see.
  const manifest = model && (isOwn || dataset) ? await showManifest(context, links, isOwn) : null;
  return {
    image: only(image, shown.image),
    params: only(image, shown.params),
    model_hash: model && links.model_hash,
    model: only(model, shown.model),
    training: only(training, shown.training),
    dataset: only(dataset, shown.dataset),
    manifest,
  };
}

/** An object as this viewer sees it; null when there is none for them. */
async function find(resource: Resource, id: number | null, context: Context): Promise<Input | null> {
  if (id === null) return null;
  const found = await detail(resource, String(id), context).catch((error) => {
    if (isProblem(error, "not-found")) return null;
    throw error;
  });
  return found && JSON.parse(found.json);
}

/** The model, the training that made the very file of it that made the image, and that training's pictures. */
async function findLinks({ sql }: Context, imageId: number): Promise<Links> {
  const [row] = await sql<Links[]>`
    select i.model_id, coalesce(i.model_hash, m.hash) as model_hash, k.id as task_id, m.user_id as owner_id,
      coalesce((k.params ->> 'dataset_id')::int, m.dataset_id) as dataset_id,
      case when k.id is not null then k.manifest when m.hash = coalesce(i.model_hash, m.hash) then m.manifest end
        as manifest
    from images i
    left join models m on m.id = i.model_id
    left join lateral (
      select id, params, manifest
      from tasks
      where type = 'train' and model_id = m.id and model_hash = coalesce(i.model_hash, m.hash)
      order by id desc
      limit 1
    ) k on true
    where i.id = ${imageId}
  `;
  return row as Links;
}

interface Learned {
  hash: string | null;
  caption: string;
  source: string;
  key: string | null;
  thumbhash: string | null;
  is_public: boolean;
  size: number;
  content_type: string;
  width: number | null;
  height: number | null;
}

/**
 * The pictures in their order; what is not stored under its key any more may still be there by its content. Others see
 * those that the data set still shows: what was taken out of it was perhaps never meant for them.
 */
async function showManifest(
  { sql, viewer, links }: Context,
  { manifest, owner_id, dataset_id }: Links,
  isOwn: boolean,
) {
  if (!manifest || manifest.length === 0) return null;
  const rows = await sql<Learned[]>`
    select e.hash, e.caption, e.url as source, f.*
    from rows from (
      jsonb_to_recordset(${sql.json(manifest)}) as (key text, hash text, caption text, url text)
    ) with ordinality e (key, hash, caption, url, place)
    left join lateral (
      select key, thumbhash, size, content_type, width, height, is_file_public(key, user_id) as is_public
      from files
      where (key = e.key or (user_id = ${owner_id} and hash = e.hash))
        and (${viewer.admin} or user_id = ${viewer.id} or is_file_public(key, user_id))
      order by key = e.key desc
      limit 1
    ) f on true
    where ${isOwn} or exists (select from datasets where id = ${dataset_id} and images @> array[e.url])
    order by e.place
  `;
  return rows.map(({ hash, caption, source, key, thumbhash, is_public, size, content_type, width, height }) => {
    const url = (shown: string) => links.file(shown, { isSigned: !is_public });
    const thumbnail = key === null || thumbhash === null ? null : url(thumbnailKey(key, 512));
    const file = key === null ? null : { url: url(key), thumbnail, size, content_type, width, height };
    return { hash, caption, source: source.startsWith("/api/files/") ? (file?.url ?? null) : source, file };
  });
}

function only(object: Input | null, names: readonly string[]): Input | null {
  return object && Object.fromEntries(names.map((name) => [name, object[name]]));
}

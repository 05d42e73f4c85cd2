/** What several definitions share: names, tags, labels of work, and how stored files are shown and referred to. */
import type { Fragment } from "postgres";
import { z } from "zod";
import type { Sql } from "../db/client.ts";
import { limitText } from "../params/text.ts";
import type { Fault } from "../problems.ts";
import { isForbiddenHost } from "../remote/addresses.ts";
import type { Columns, Context, Field, Input, Sort } from "../rest/define.ts";
import { maxId } from "../rest/limits.ts";
import { all } from "../rest/pipeline.ts";
import { type ThumbnailEdge, thumbnailKey } from "../storage/keys.ts";

export const id = { schema: z.int().positive() } satisfies Field;
const instant = z.iso.datetime();
export const createdAt = { schema: instant } satisfies Field;
export const updatedAt = { schema: instant } satisfies Field;
export const reference = z.int().positive().max(maxId);
export const nullableReference = reference.nullable();

export const name = limitText(z.string().trim().min(1), 120).meta({ examples: ["布穀鳥"] });
/** A name as it is answered. */
export const shownName = { schema: z.string().meta({ examples: ["布穀鳥"] }) } satisfies Field;
export const longText = limitText(z.string(), 10_000);

/** `createdAt` and `updatedAt` newest first, `name` by code point (its columns have the collation "C"). */
export const commonSorts = {
  createdAt: { by: "created_at", direction: "desc" },
  updatedAt: { by: "updated_at", direction: "desc" },
  name: { by: "name", direction: "asc" },
} as const satisfies Record<string, Sort>;

export const tagName = z
  .string()
  // For the document: some full-width commas become plain ones below.
  .meta({
    pattern: "^[^,\uFF0C\uFE10\uFE50]*[^,\uFF0C\uFE10\uFE50\\s][^,\uFF0C\uFE10\uFE50]*$",
    maxLength: 60,
    examples: ["水彩"],
  })
  .transform((text) => text.normalize("NFKC").trim())
  .pipe(
    limitText(
      z
        .string()
        .min(1)
        .regex(/^[^,]*$/, "must hold no comma"),
      60,
    ),
  );
export const tagsInput = z.array(tagName).max(100);
export const tags = {
  schema: z.array(z.string()).meta({ examples: [["動物", "水彩"]] }),
  // Written out: PostgreSQL puts no such function into the statement, and calling one takes far longer than the names.
  // By look-ups: a join would be planned for ten tags of some table, and read the whole of a small one for each row.
  select: ({ sql }) => sql`
    array_remove(array(
      select (select name from tags where tags.id = o.id)
      from unnest(t.tag_ids) with ordinality as o (id, place)
      order by o.place
    ), null)
  `,
} satisfies Field;

/** Tag names to the ids that a row keeps; unknown names are created. */
export async function toTagIds({ sql }: Context, names: unknown): Promise<number[]> {
  const [row] = await sql<{ ids: number[] }[]>`select tag_ids(${(names ?? []) as string[]}::text[]) as ids`;
  return row?.ids ?? [];
}

/** Those of many rows, in their order; rows with the same tags share one look-up. */
export async function toTagIdsOfAll(context: Context, inputs: Input[]): Promise<number[][]> {
  const keys = inputs.map(({ tags: names }) => JSON.stringify(names ?? []));
  const lists = [...new Set(keys)];
  const ids = await all(lists, (list) => toTagIds(context, JSON.parse(list)));
  const byKey = new Map(lists.map((list, i) => [list, ids[i] ?? []]));
  return keys.map((key) => byKey.get(key) ?? []);
}

/** A statement has 65,534 parameters at most. */
const maxParameters = 60_000;

/**
 * Inserts rows that all have the same columns, in as few statements as there can be.
 * @returns their ids in their order: an identity counts up in the order of the rows
 */
export async function insertAll(sql: Sql, table: string, rows: Columns[]): Promise<{ id: number }[]> {
  const size = Math.floor(maxParameters / Object.keys(rows[0] ?? {}).length);
  const ids: { id: number }[] = [];
  for (let i = 0; i < rows.length; i += size) {
    const made = await sql<{ id: number }[]>`insert into ${sql(table)} ${sql(rows.slice(i, i + size))} returning id`;
    ids.push(...made.sort((a, b) => a.id - b.id));
  }
  return ids.map(({ id }) => ({ id }));
}

/** What callers wrote as columns: tags are kept as ids. */
export async function withTagIds(context: Context, { tags: names, ...columns }: Input): Promise<Columns> {
  return names === undefined ? columns : { ...columns, tag_ids: await toTagIds(context, names) };
}

/** Whether the row is the viewer's to know all of. */
export function isMine({ sql, viewer }: Context): Fragment {
  if (viewer.admin) return sql`true`;
  return viewer.id === null ? sql`false` : sql`(t.user_id = ${viewer.id})`;
}

/** `{class, detail}`: what went wrong. The detail may speak of private things: strangers see the class alone. */
export const errorField = {
  schema: z.object({ class: z.string(), detail: z.string().nullable() }).nullable(),
  select: (context) => context.sql`
    case
      when t.error is null or ${isMine(context)} then t.error
      else jsonb_build_object('class', t.error -> 'class', 'detail', null)
    end
  `,
} satisfies Field;

/** The URL of a file of the row's own, kept by key: who sees the row may load it. */
export function ownUrl(column: string) {
  return ({ sql, links }: Context): Fragment =>
    sql`case when t.public then ${links.base}::text else ${links.mark}::text end || t.${sql(column)}`;
}

/** The same of a picture's thumbnail; null when it has none. */
export function ownThumbnail(edge: ThumbnailEdge) {
  return (context: Context): Fragment =>
    context.sql`case when t.thumbhash is not null then ${ownUrl("file_key")(context)} || ${thumbnailKey("", edge)} end`;
}

/**
 * What the engine shows of a picture while it is made, for whoever sees the row: a signed URL that ends with the run.
 * @param isOf SQL over `t` and a preview `p`
 */
export function previewField(isOf: (sql: Sql) => Fragment) {
  return {
    schema: z.string().nullable(),
    live: true,
    select: ({ sql, links }: Context) => sql`
      case when t.status = 'running' then (
        select ${links.mark}::text || 'preview-' || p.task_id || '-' || p.number || '.webp' from previews p where ${isOf(sql)}
      ) end
    `,
  } satisfies Field;
}

/** Pictures made with the model that a task trains, for whoever sees the task: signed URLs, in the order of steps. */
export const samplesField = {
  schema: z.array(z.object({ step: z.int(), url: z.string() })),
  // Those that are there have signed URLs; more come while it runs.
  live: ({ status }) => status === "running",
  select: ({ sql, links }: Context) => sql`
    coalesce((
      select json_agg(json_build_object(
        'step', s.step,
        'url', ${links.mark}::text || 'sample-' || s.task_id || '-' || s.step || '-' || s.number || '.webp'
      ) order by s.step)
      from samples s
      where s.task_id = t.id
    ), '[]'::json)
  `,
} satisfies Field;

const sampleKey = /^sample-([1-9]\d{0,9})-(\d{1,9})-\d{1,16}\.webp$/;

/** The task and the step that a sample's key names, or null when it is none. */
export function partsOfSample(key: string): { taskId: number; step: number } | null {
  const [, id, step] = sampleKey.exec(key) ?? [];
  return Number(id) <= maxId ? { taskId: Number(id), step: Number(step) } : null;
}

const previewKey = /^preview-([1-9]\d{0,9})-\d{1,16}\.webp$/;

/** The task that a preview's key names, or null when it is none. */
export function taskOfPreview(key: string): number | null {
  const id = Number(previewKey.exec(key)?.[1] ?? 0);
  return id > 0 && id <= maxId ? id : null;
}

/**
 * The URL under which the viewer may load what a stored path names; null when it may not. Whether somebody else's file
 * is open is asked only for files that are not the viewer's own.
 * @param path SQL over `t`
 * @param isOpened whether the row's being public opens the file: what an object shows (a data set's pictures, a
 *   model's cover), but not what it was only made from. Remote URLs are the owner's own words: where nothing is
 *   opened, others do not see them
 */
export function shownPath(path: Fragment, context: Context, isOpened: boolean): Fragment {
  const { sql, viewer, links } = context;
  const opened = isOpened ? sql`t.public` : sql`false`;
  return sql`
    case
      when ${path} like '/api/files/%' then (
        select case when f.is_open then ${links.base}::text else ${links.mark}::text end || f.key
        from (
          select key, user_id, (${opened} and user_id = t.user_id)
            or (user_id is distinct from ${viewer.id}::int and is_file_public(key, user_id)) as is_open
          from files
          where key = substr(${path}, 12)
        ) f
        where f.is_open
          or ${viewer.admin ? sql`true` : sql`f.user_id = ${viewer.id}::int`}
      )
      when ${opened} or ${isMine(context)} then ${path}
    end
  `;
}

const ownFile = /^\/api\/files\/([\w.-]+)$/;

export function keyOfPath(path: string): string | null {
  return ownFile.exec(path)?.[1] ?? null;
}

/**
 * The canonical form of a picture's URL: what a row keeps. Own uploads, pictures the caller may see (by file or by
 * image) and public http(s) URLs; anything else is a fault that reads as if it did not exist. Locks the file's row
 * against a sweep until the transaction ends.
 */
export async function resolvePicture(
  context: Context,
  url: string,
  pointer: string,
  faults: Fault[],
): Promise<string | null> {
  const refuse = (detail: string) => {
    faults.push({ pointer, detail });
    return null;
  };
  const canonical = context.links.canonical(url, context.client.origin);
  if (!canonical) return refuse("must be an http(s) URL or the path of a file here");
  if ("remote" in canonical) {
    return isForbiddenHost(new URL(canonical.remote).hostname)
      ? refuse("must not be on a private, loopback or link-local address")
      : canonical.remote;
  }
  const image = /^\/api\/images\/([1-9]\d{0,8})$/.exec(canonical.own);
  const key = image ? await imageFile(context, Number(image[1])) : keyOfPath(canonical.own);
  const file = key === null ? null : await findFile(context, key);
  return file?.kind === "picture" ? `/api/files/${file.key}` : refuse("there is no such picture");
}

async function imageFile({ sql, viewer }: Context, imageId: number): Promise<string | null> {
  const [row] = await sql<{ file_key: string | null }[]>`
    select file_key
    from images
    where id = ${imageId}
      and (public or user_id is not distinct from ${viewer.id} or ${viewer.admin})
  `;
  return row?.file_key ?? null;
}

export interface StoredFile {
  key: string;
  kind: string;
  hash: string;
  user_id: number | null;
  metadata: Record<string, string>;
}

/** A stored file that the viewer may see, locked against the sweep; null for a missing and a strange one alike. */
export async function findFile({ sql, viewer }: Context, key: string): Promise<StoredFile | null> {
  const [file] = await sql<StoredFile[]>`
    select key, kind, hash, user_id, metadata
    from files
    where key = ${key}
      and (${viewer.admin} or user_id = ${viewer.id} or is_file_public(key, user_id))
    for key share
  `;
  return file ?? null;
}

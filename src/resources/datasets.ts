/** Data sets: pictures with captions, in an order, to train models on. Private to their owner until published. */
import { z } from "zod";
import { limitText } from "../params/text.ts";
import { type Fault, Problem } from "../problems.ts";
import {
  type Columns,
  type Context,
  defineResource,
  type Input,
  isOwnerOrAdmin,
  ownedOrPublic,
  type Row,
} from "../rest/define.ts";
import {
  commonSorts,
  createdAt,
  id,
  insertAll,
  isMine,
  longText,
  name,
  reference,
  resolvePicture,
  shownName,
  shownPath,
  tags,
  tagsInput,
  toTagIdsOfAll,
  updatedAt,
  withTagIds,
} from "./common.ts";

export const maxImages = 10_000;
/** Characters. */
export const maxCaption = 2000;

const shape = () => ({
  name,
  info: longText,
  images: z.array(z.string().min(1).max(2000)).max(maxImages),
  captions: z.record(z.string(), limitText(z.string(), maxCaption).nullable()),
  public: z.boolean(),
  tags: tagsInput,
});

type Captions = Record<string, string | null>;

/** Replaces URLs by their canonical form, once each; captions may name a picture by any form of its URL. */
async function check(context: Context, input: Input, faults: Fault[], rows: Row[] = []): Promise<void> {
  if (Array.isArray(input.images)) {
    const resolved = new Set<string>();
    for (const [index, url] of (input.images as string[]).entries()) {
      const canonical = await resolvePicture(context, url, `/images/${index}`, faults);
      if (canonical) resolved.add(canonical);
    }
    input.images = [...resolved];
  }
  if (!input.captions) return;
  const shown = input.images ? [new Set(input.images as string[])] : rows.map((row) => new Set(row.images as string[]));
  const captions: Captions = {};
  for (const [url, text] of Object.entries(input.captions as Captions)) {
    const pointer = `/captions/${url.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    const canonical = await resolvePicture(context, url, pointer, faults);
    if (canonical === null) continue;
    if (shown.length > 0 && shown.every((images) => images.has(canonical))) captions[canonical] = text;
    else faults.push({ pointer, detail: "is not one of the images" });
  }
  input.captions = captions;
}

/** The columns of one row, or of rows yet to be. Captions merge into what is there; null takes one away. */
function toColumns({ sql }: Context, { captions, ...columns }: Columns, row?: Row): Columns {
  if (captions === undefined && columns.images === undefined) return columns;
  const images = new Set((columns.images ?? row?.images ?? []) as string[]);
  const merged = { ...(row?.captions as Captions), ...(captions as Captions) };
  const kept = Object.entries(merged).filter(([url, text]) => text !== null && images.has(url));
  return { ...columns, captions: sql.json(Object.fromEntries(kept)) };
}

export const datasets = defineResource({
  name: "datasets",
  singular: "data set",
  about: "Pictures with captions, in an order, to train models on. Private to their owner until published.",
  id: "integer",
  owner: "t.user_id",
  isBulk: true,
  fields: {
    id,
    name: shownName,
    info: { schema: z.string() },
    images: {
      schema: z.array(z.string().nullable()),
      select: (context) => context.sql`
        array(
          select ${shownPath(context.sql`u.path`, context, true)}
          from unnest(t.images) with ordinality u (path, place)
          order by u.place
        )
      `,
    },
    image_count: { schema: z.int(), select: ({ sql }) => sql`cardinality(t.images)` },
    cover: {
      schema: z.string().nullable(),
      select: (context) => shownPath(context.sql`t.images[1]`, context, true),
    },
    captions: {
      schema: z.record(z.string(), z.string()),
      select: (context) => context.sql`
        (
          select coalesce(jsonb_object_agg(c.url, c.caption), '{}')
          from (
            select ${shownPath(context.sql`e.key`, context, true)} as url, e.value as caption
            from jsonb_each(t.captions) e
          ) c
          where c.url is not null
        )
      `,
    },
    report: {
      schema: z
        .array(z.object({ url: z.string().nullable(), status: z.string(), detail: z.string().nullable() }))
        .nullable(),
      select: (context) => context.sql`
        case when ${isMine(context)} then (
          select coalesce(
            jsonb_agg(e.entry || jsonb_build_object('url', ${shownPath(context.sql`e.entry ->> 'url'`, context, true)})
              order by e.place),
            '[]'
          )
          from jsonb_array_elements(t.report) with ordinality e (entry, place)
        ) end
      `,
    },
    public: { schema: z.boolean() },
    tags,
    user_id: { schema: reference },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  filters: {
    id: { kind: "id", column: "id" },
    user_id: { kind: "id", column: "user_id" },
    public: { kind: "boolean", column: "public" },
    tag: { kind: "tag", column: "tag_ids" },
    name: { kind: "text", column: "name" },
  },
  sorts: commonSorts,
  lists: { counted: ["user_id", "name"], tags: { postings: "dataset_tags", columns: [] }, isOwned: true },
  isSearchable: true,
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  insiders: ({ sql }) => sql`
    array(select distinct f.user_id from unnest(t.images) path join files f on f.key = substr(path, 12))
  `,
  create: {
    by: "users",
    shape,
    required: ["images"],
    examples: {
      uploads: {
        name: "布穀鳥",
        images: ["/api/files/0b9c2f7e6d.png", "https://example.com/cuckoo.png"],
        captions: { "/api/files/0b9c2f7e6d.png": "a cuckoo on a branch" },
        tags: ["動物"],
      },
    },
    check,
    async insert(context, inputs) {
      const { sql, viewer } = context;
      const tagIds = await toTagIdsOfAll(context, inputs);
      const defaults = { name: "Data set", info: "", public: false, user_id: viewer.id };
      const rows = inputs.map(({ tags: _names, ...input }, i) => ({
        ...defaults,
        ...toColumns(context, input),
        tag_ids: tagIds[i],
      }));
      return insertAll(sql, "datasets", rows);
    },
  },
  patch: {
    shape,
    check,
    async change(context, input, rows) {
      const columns = await withTagIds(context, input);
      const isShared = input.images === undefined && input.captions === undefined;
      return isShared ? columns : rows.map((row) => toColumns(context, columns, row));
    },
  },
  remove: {
    throws: ["in-use"],
    async before({ sql }, rows) {
      const [used] = await sql`
        select from tasks k
        join models m on m.task_id = k.id
        where m.dataset_id = any (${rows.map((row) => row.id as number)}::int[])
          and k.status = 'initial'
        limit 1
      `;
      if (used) throw new Problem("in-use", { detail: "A training is still reading this data set" });
    },
  },
});

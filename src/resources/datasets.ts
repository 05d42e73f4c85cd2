/** Data sets: pictures with captions, in an order, to train models on. Private to their owner until published. */
import { z } from "zod";
import { limitText } from "../params/text.ts";
import { type Fault, Problem } from "../problems.ts";
import { type Context, defineResource, type Input, isOwnerOrAdmin, ownedOrPublic, type Row } from "../rest/define.ts";
import {
  commonSorts,
  createdAt,
  id,
  longText,
  name,
  prepareFiles,
  reference,
  resolvePicture,
  showFile,
  shownName,
  tags,
  tagsInput,
  toTagIds,
  updatedAt,
} from "./common.ts";

const shape = () => ({
  name,
  info: longText,
  images: z.array(z.string().min(1).max(2000)).max(10_000),
  captions: z.record(z.string(), limitText(z.string(), 2000).nullable()),
  public: z.boolean(),
  tags: tagsInput,
});

/** Replaces URLs by their canonical form, once each; captions may name a picture by any form of its URL. */
async function check(context: Context, input: Input, faults: Fault[], row?: Row): Promise<void> {
  if (Array.isArray(input.images)) {
    const resolved = new Set<string>();
    for (const [index, url] of (input.images as string[]).entries()) {
      const canonical = await resolvePicture(context, url, `/images/${index}`, faults);
      if (canonical) resolved.add(canonical);
    }
    input.images = [...resolved];
  }
  if (input.captions) {
    const images = (input.images ?? row?.images ?? []) as string[];
    const captions: Record<string, string> = { ...(row?.captions as Record<string, string>) };
    for (const [url, text] of Object.entries(input.captions as Record<string, string | null>)) {
      const pointer = `/captions/${url.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      const canonical = await resolvePicture(context, url, pointer, faults);
      if (canonical === null) continue;
      if (!images.includes(canonical)) faults.push({ pointer, detail: "is not one of the images" });
      if (text === null) delete captions[canonical];
      else captions[canonical] = text;
    }
    input.captions = captions;
  }
}

async function toColumns(context: Context, { tags: names, ...input }: Input, row?: Row): Promise<Input> {
  const columns: Input = { ...input };
  if (names !== undefined) columns.tag_ids = await toTagIds(context, names);
  const images = (input.images ?? row?.images ?? []) as string[];
  const captions = (input.captions ?? row?.captions ?? {}) as Record<string, string>;
  if (input.images || input.captions) {
    columns.captions = context.sql.json(
      Object.fromEntries(Object.entries(captions).filter(([url]) => images.includes(url))),
    );
  }
  return columns;
}

const show = (value: unknown, row: Row, context: Context) =>
  (value as string[]).map((path) => showFile(path, row, context));

export const datasets = defineResource({
  name: "datasets",
  singular: "data set",
  about: "Pictures with captions, in an order, to train models on. Private to their owner until published.",
  id: "integer",
  owner: "t.user_id",
  fields: {
    id,
    name: shownName,
    info: { schema: z.string() },
    images: { schema: z.array(z.string().nullable()), shape: show },
    image_count: { schema: z.int(), select: ({ sql }) => sql`cardinality(t.images)` },
    cover: {
      schema: z.string().nullable(),
      select: ({ sql }) => sql`t.images[1]`,
      shape: showFile,
    },
    captions: {
      schema: z.record(z.string(), z.string()),
      shape: (value, row, context) =>
        Object.fromEntries(
          Object.entries(value as Record<string, string>).flatMap(([path, text]) => {
            const url = showFile(path, row, context);
            return url === null ? [] : [[url, text]];
          }),
        ),
    },
    report: {
      schema: z.array(z.object({ url: z.string().nullable(), status: z.string(), detail: z.string().nullable() })),
      see: "owner",
      elseNull: true,
      shape: (value, row, context) =>
        (value as { url: string }[]).map((entry) => ({ ...entry, url: showFile(entry.url, row, context) })),
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
  visible: ownedOrPublic,
  mayWrite: isOwnerOrAdmin,
  prepare: prepareFiles((row) => [...(row.images as string[]), ...(row.report as { url: string }[]).map((r) => r.url)]),
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
    async insert(context, input) {
      const { sql, viewer } = context;
      const columns = { name: "Data set", ...(await toColumns(context, input)), user_id: viewer.id };
      const [row] = await sql<{ id: number }[]>`insert into datasets ${sql(columns as Input)} returning id`;
      return { id: row?.id as number };
    },
  },
  patch: { shape, check, change: toColumns },
  remove: {
    throws: ["in-use"],
    async before({ sql }, row) {
      const [used] = await sql`
        select from tasks k
        join models m on m.task_id = k.id
        where m.dataset_id = ${row.id}
          and k.status = 'initial'
        limit 1
      `;
      if (used) throw new Problem("in-use", { detail: "A training is still reading this data set" });
    },
  },
});

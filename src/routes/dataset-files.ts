/**
 * `POST /api/datasets/{id}/files`: a folder or a ZIP of pictures into a data set, with a text file beside a picture
 * (`cat.txt` beside `cat.png`, as trainers have it) as its caption.
 */
import { randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Hono } from "hono";
import { z } from "zod";
import type { Sql } from "../db/client.ts";
import { invalid, Problem } from "../problems.ts";
import { datasets, maxCaption, maxImages } from "../resources/datasets.ts";
import type { Answer } from "../rest/answer.ts";
import type { Context, Row } from "../rest/define.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { answerOnce, type Once } from "../rest/idempotency.ts";
import { notFound, parseId } from "../rest/read.ts";
import { transaction } from "../rest/write.ts";
import { type Item, receiveItems, refuseOtherTypes } from "../storage/collection.ts";
import { readPicture } from "../storage/pictures.ts";
import { judgeQuota, quotaExceeded, readAllowance } from "../storage/quota.ts";
import { type FileRecord, keepPicture } from "../storage/records.ts";
import { spool } from "../storage/spool.ts";
import { uploadLimits } from "../storage/upload.ts";
import { requireUser } from "./files.ts";
import type { FileDeps } from "./keep-upload.ts";

/** Pictures decoded while the next ones come in. */
const maxOpen = 4;
const maxCaptionBytes = 16_000;

export const collected = z.object({
  added: z.int().meta({ description: "Pictures that the data set did not have" }),
  report: z.array(
    z.object({
      name: z.string().meta({ description: "Its path in the folder or archive", examples: ["cuckoos/1.png"] }),
      status: z.enum(["ok", "not an image", "too large", "over quota", "no picture"]).meta({
        description: "`no picture`: a caption without the picture it is for",
      }),
      detail: z.string().nullable(),
      url: z.string().nullable(),
    }),
  ),
});

type Entry = { name: string; hash: string } & (
  | { kind: "picture"; file: FileRecord }
  | { kind: "caption"; text: string }
  | { kind: "refused"; status: "not an image" | "too large" | "over quota"; detail: string }
);

export function datasetFileRoutes(deps: FileDeps) {
  const routes = new Hono<Env>();
  routes.post("/:id/files", async (c) => {
    const { context } = requireUser(c);
    refuseOtherTypes(c.req.raw);
    refuseQuery(c.req.url);
    const { id, owner_id } = await findOwn(context, c.req.param("id"));
    const entries = await receive(c.req.raw, context.sql, deps, owner_id as number);
    if (entries.length === 0) throw invalid("/file", "There is no file in it.");
    return answerOnce(
      c,
      () => entries.map(({ name, hash }) => `${hash} ${name}`).join("\n"),
      (once) => append(context, deps, id as number, entries, once),
    );
  });
  return routes;
}

/** @throws Problem "not-found", "forbidden" */
async function findOwn(context: Context, idText: string): Promise<Row> {
  const { sql, viewer } = context;
  const id = parseId(datasets, idText);
  const [row] = await sql<Row[]>`
    select t.id, t.user_id as owner_id from datasets t where t.id = ${id} and ${datasets.visible(context)}
  `;
  if (!row) throw notFound(datasets, id);
  if (!datasets.mayWrite(viewer, row)) throw new Problem("forbidden");
  return row;
}

/** Every picture is kept as the owner's before anything refers to it; what is never referred to is swept. */
async function receive(request: Request, sql: Sql, deps: FileDeps, ownerId: number): Promise<Entry[]> {
  const { storage, temporaryDirectory, config } = deps;
  const budget = { left: await readAllowance(sql, ownerId, config.userQuotaBytes) };
  const entries: Entry[] = [];
  const open = new Set<Promise<void>>();
  let failure: unknown = null;

  async function takePicture(item: Item, place: number): Promise<void> {
    const path = join(temporaryDirectory, randomUUID());
    const limit = Math.min(uploadLimits.picture, budget.left);
    const spooled = await spool(item.body, path, limit).catch((error) => refused(item.name, error, limit));
    if ("status" in spooled) {
      entries[place] = spooled;
      return;
    }
    const work = async () => {
      try {
        const file = await keepPicture(sql, storage, ownerId, await readPicture(path), { isUpload: true });
        budget.left -= file.size;
        entries[place] = { kind: "picture", name: item.name, hash: spooled.hash, file };
      } catch (error) {
        entries[place] = refused(item.name, error, limit, spooled.hash);
      } finally {
        await rm(path, { force: true });
      }
    };
    const working: Promise<void> = work()
      .catch((error) => {
        failure ??= error;
      })
      .finally(() => open.delete(working));
    open.add(working);
    if (open.size >= maxOpen) await Promise.race(open);
    if (failure) throw failure;
  }

  function refused(name: string, error: unknown, limit: number, hash = ""): Entry & { kind: "refused" } {
    if (!(error instanceof Problem) || error.status >= 500 || error.status === 422) throw error;
    const isFull = error.code === "too-large" && limit < uploadLimits.picture;
    const status = isFull ? "over quota" : error.code === "too-large" ? "too large" : "not an image";
    const detail = isFull ? quotaExceeded(config.userQuotaBytes).message : error.message;
    return { kind: "refused", name, hash, status, detail };
  }

  try {
    await receiveItems(request, temporaryDirectory, async (item) => {
      const place = entries.length;
      entries.length += 1;
      if (/\.(txt|caption)$/i.test(item.name)) entries[place] = await readCaption(item);
      else await takePicture(item, place);
    });
  } finally {
    await Promise.all(open);
  }
  if (failure) throw failure;
  return entries;
}

async function readCaption({ name, body }: Item): Promise<Entry> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size <= maxCaptionBytes) chunks.push(chunk);
  }
  // Editors leave a byte order mark and a newline; PostgreSQL takes no NUL.
  const text = new TextDecoder().decode(Buffer.concat(chunks)).replaceAll("\0", "").trim();
  const isLong = size > maxCaptionBytes || [...text].length > maxCaption;
  const detail = `A caption has at most ${maxCaption} characters.`;
  if (isLong) return { kind: "refused", name, hash: "", status: "too large", detail };
  return { kind: "caption", name, hash: text, text };
}

async function append(
  context: Context,
  { config }: FileDeps,
  id: number,
  entries: Entry[],
  once: Once,
): Promise<Answer> {
  const pathOf = ({ key }: FileRecord) => `/api/files/${key}`;
  const pictures = entries.filter((entry) => entry.kind === "picture");
  const byStem = new Map(pictures.map(({ name, file }) => [stemOf(name), pathOf(file)]));
  const captions: Record<string, string> = {};
  for (const entry of entries) {
    const path = entry.kind === "caption" ? byStem.get(stemOf(entry.name)) : undefined;
    if (entry.kind === "caption" && path !== undefined) captions[path] = entry.text;
  }
  return transaction(context, async (inside) => {
    const { sql } = inside;
    await once.claim(sql);
    const [row] = await sql<{ images: string[]; owner_id: number }[]>`
      select images, user_id as owner_id
      from datasets t
      where t.id = ${id}
        and ${datasets.visible(inside)}
      for update
    `;
    if (!row) throw notFound(datasets, id);
    const images = [...new Set([...row.images, ...pictures.map(({ file }) => pathOf(file))])];
    if (images.length > maxImages) throw invalid("/file", `A data set has at most ${maxImages} pictures.`);
    await judgeQuota(sql, row.owner_id, config.userQuotaBytes);
    // Held until this commits: a deletion waits, and then finds them in use.
    const held = await sql`
      select from files where key = any (${pictures.map(({ file }) => file.key)}::text[]) for key share
    `;
    if (held.length < new Set(pictures.map(({ file }) => file.key)).size) {
      throw new Problem("conflict", { detail: "A picture was deleted while it came in; send them again" });
    }
    await sql`
      update datasets
      set images = ${images}::text[], captions = captions || ${sql.json(captions)}::jsonb
      where id = ${id}
    `;
    const report = entries.map((entry) => toReport(context, entry, byStem));
    const body = JSON.stringify({ added: images.length - row.images.length, report });
    const answer = { status: 200, headers: {}, body } as const;
    await once.keep(sql, answer);
    return answer;
  });
}

function toReport({ links }: Context, entry: Entry, byStem: Map<string, string>) {
  const { name } = entry;
  if (entry.kind === "refused") return { name, status: entry.status, detail: entry.detail, url: null };
  if (entry.kind === "picture") {
    return { name, status: "ok", detail: null, url: links.file(entry.file.key, { isSigned: true }) };
  }
  if (byStem.has(stemOf(name))) return { name, status: "ok", detail: null, url: null };
  return { name, status: "no picture", detail: "There is no picture of that name beside it.", url: null };
}

/** What a caption's name has in common with its picture's. */
function stemOf(name: string): string {
  return name.replace(/\.[^./]*$/, "");
}

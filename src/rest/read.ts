/** The generic reads: a page, one object, and the view that no row leaves without. */
import type { Fragment } from "postgres";
import { z } from "zod";
import type { Sql } from "../db/client.ts";
import { type Compiled, compile, fill, run, runOnce } from "../db/compiled.ts";
import { Problem } from "../problems.ts";
import { deepOffset, deepQuery } from "./deep.ts";
import { type Context, isOwnerOrAdmin, type Resource, type Row } from "./define.ts";
import { defaultPageSize, maxId } from "./limits.ts";
import { type ListQuery, parseListQuery, toOrder } from "./listview.ts";
import { hitsQuery, maxSearchTotal, pageQuery, totalQuery } from "./page.ts";
import { isSearch, type Plan, planList, planOf } from "./plan.ts";

/** @throws Problem "token-required" or "forbidden" when this viewer may not read the resource at all */
export function checkReader(resource: Resource, context: Context): void {
  if (resource.readers === "users" && context.viewer.id === null) throw new Problem("token-required");
}

/** A row as this viewer sees it, with what the rules and the ETag need beside. */
export interface Shown extends Pick<Row, "id" | "version" | "revision" | "owner_id"> {
  /** The object as PostgreSQL prints it: parsing rows only to print them again is most of what a list costs. */
  json: string;
}

/** The `select` list over the alias `t` of a `Shown`. */
function selectShown(resource: Resource, context: Context): Fragment {
  const columns = compiled(
    resource,
    "shown",
    context,
    (inside) => inside.sql`
      t.id, t.version, t.revision, ${inside.sql.unsafe(resource.owner)} as owner_id,
      ${selectJson(resource, inside)} as json
    `,
  );
  return fill(context.sql, columns, valuesOf(context));
}

/** The object as JSON text, over the alias `t`. */
export function selectJson(resource: Resource, context: Context): Fragment {
  const { sql } = context;
  const fields = Object.entries(resource.fields).map(([name, field]) => {
    const value = field.select ? field.select(context) : sql`t.${sql(name)}`;
    return sql`${isInstant(field.schema) ? printed(sql, value) : value} as ${sql(name)}`;
  });
  return sql`(select row_to_json(o)::text from (select ${fields.reduce((all, field) => sql`${all}, ${field}`)}) o)`;
}

function isInstant(schema: z.ZodType): boolean {
  return schema instanceof z.ZodNullable ? isInstant(schema.unwrap() as z.ZodType) : schema instanceof z.ZodISODateTime;
}

/** RFC 3339 in UTC, to the millisecond. */
function printed(sql: Context["sql"], value: Fragment): Fragment {
  return sql`to_char(${value} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
}

const statements = new WeakMap<Resource, Map<string, Compiled>>();

type Build = (context: Context, slot: <T>(name: string) => T) => Fragment;

/**
 * A statement about a resource that was composed before for this kind of viewer (a guest, a user, an admin), or now.
 * @param name of the statement, with whatever else its text depends on
 */
function compiled(resource: Resource, name: string, context: Context, build: Build): Compiled {
  const { viewer } = context;
  const key = `${name} ${viewer.admin ? "admin" : viewer.id === null ? "guest" : "user"}`;
  const known = statements.get(resource) ?? new Map<string, Compiled>();
  statements.set(resource, known);
  let found = known.get(key);
  if (!found) {
    found = compile((slot) => {
      const own = {
        admin: viewer.admin,
        id: viewer.id === null ? null : slot<number>("viewer"),
        sessionId: viewer.id === null ? null : slot<string>("session"),
      };
      const links = { ...context.links, base: slot<string>("base"), mark: slot<string>("mark") };
      return build({ ...context, viewer: own, links }, slot);
    });
    known.set(key, found);
  }
  return found;
}

const valuesOf = ({ viewer, links: { base, mark } }: Context) => ({
  viewer: viewer.id,
  session: viewer.sessionId,
  base,
  mark,
});

/** Runs a compiled statement. @param values for the slots that `build` names beside the viewer's own */
function ask<T extends readonly object[]>(
  resource: Resource,
  name: string,
  context: Context,
  build: Build,
  values: Record<string, unknown> = {},
): Promise<T> {
  return run<T>(context.sql, compiled(resource, name, context, build), { ...valuesOf(context), ...values });
}

/** A page as JSON text: a ListView. @throws Problem "invalid-query" */
export async function list(resource: Resource, query: URLSearchParams, context: Context): Promise<string> {
  return printPage(await readPage(resource, query, context));
}

export interface ReadPage {
  /** What a ListView says beside its list. */
  head: Record<string, unknown>;
  rows: Shown[];
  /** What the viewer is answered, by row. */
  objects: string[];
}

export function printPage({ head, objects }: ReadPage): string {
  return `${JSON.stringify(head).slice(0, -1)},"list":[${objects.join(",")}]}`;
}

/** @throws Problem "invalid-query" */
export async function readPage(resource: Resource, query: URLSearchParams, context: Context): Promise<ReadPage> {
  checkReader(resource, context);
  const parsed = parseListQuery(resource, query, context);
  const plan = await planList(resource, parsed, context);
  const offset = (parsed.page - 1) * parsed.pageSize;
  const isSearched = parsed.conditions.some(isSearch);
  const read = isSearched ? readHits : offset < deepOffset ? readNear : readDeep;
  let found = await read(plan, offset);
  if (!isOfOneMoment(found, parsed, offset)) {
    found = await inOneSnapshot(context, (inside) => read({ ...plan, context: inside }, offset));
  }
  const { rows, counted } = found;
  const isExact = !isSearched || counted <= maxSearchTotal;
  const total = isExact ? counted : maxSearchTotal;
  const head = {
    page: parsed.page,
    page_size: parsed.pageSize,
    total,
    ...(isExact ? {} : { total_exact: false }),
    next: isExact ? offset + parsed.pageSize < total : rows.length > parsed.pageSize,
  };
  const onPage = rows.slice(0, parsed.pageSize);
  return { head, rows: onPage, objects: await view(resource, onPage, context) };
}

type Id = Row["id"];

interface Found {
  rows: Shown[];
  /** The rows of the list; of a search, at most one more than are counted out. */
  counted: number;
}

/**
 * Whether a page can have been so at any moment. It is read by several statements, side by side or one after the other,
 * and each sees what was committed when it began.
 */
function isOfOneMoment({ rows, counted }: Found, { pageSize, conditions }: ListQuery, offset: number): boolean {
  if (counted > maxSearchTotal && conditions.some(isSearch)) return true; // not counted out
  return rows.length === Math.min(pageSize, Math.max(0, counted - offset));
}

function inOneSnapshot<T>(context: Context, read: (inside: Context) => Promise<T>): Promise<T> {
  return context.sql.begin("isolation level repeatable read read only", (tx) =>
    read({ ...context, sql: tx as unknown as Sql }),
  ) as Promise<T>;
}

/** A page of a search: the hits are looked up once, for the page and for the total. */
async function readHits(plan: Plan, offset: number): Promise<Found> {
  const { resource, query, context } = plan;
  const { sql } = context;
  const [found] = await runPlanned<{ total: number; ids: Id[] | null }>(
    plan,
    sql`
      with hits as materialized (${hitsQuery(plan)}),
      counted as materialized (select count(*) as total from hits)
      select total, case when total <= ${maxSearchTotal} then (
        select json_agg(p.id)
        from (
          select t.id from hits t order by ${toOrder(resource, query, context)} limit ${query.pageSize} offset ${offset}
        ) p
      ) end as ids
      from counted
    `,
  );
  const counted = found?.total ?? 0;
  if (counted <= maxSearchTotal) return { rows: await listShown(resource, found?.ids ?? [], context), counted };
  // One row more tells whether there is a next page.
  return { rows: await readRows(plan, offset, query.pageSize + 1), counted };
}

/** A page near the start: its rows and the total, asked for at once. */
async function readNear(plan: Plan, offset: number): Promise<Found> {
  const [rows, counted] = await Promise.all([readRows(plan, offset, plan.query.pageSize), count(plan)]);
  return { rows, counted };
}

/** A page far out: what its place depends on is found in one statement with it. */
async function readDeep(plan: Plan, offset: number): Promise<Found> {
  const [found] = await runPlanned<{ total: number; is_reversed: boolean; ids: Id[] }>(plan, deepQuery(plan, offset));
  const { total = 0, is_reversed = false, ids = [] } = found ?? {};
  return { rows: await listShown(plan.resource, is_reversed ? ids.reverse() : ids, plan.context), counted: total };
}

/** Those whose first pages have statements of their own; connections keep them, so there may not be one for each size. */
const usualSizes = [defaultPageSize, 50, 100];

/**
 * The rows of a page near the start: found by id, then fetched. In two statements, since the one for the ids is planned
 * anew for its limit, and planning the rows as well takes longer than a message more.
 */
async function readRows(plan: Plan, offset: number, limit: number): Promise<Shown[]> {
  const { resource, context } = plan;
  if (offset === 0 && !plan.isAdHoc && usualSizes.includes(plan.query.pageSize)) return readFirst(plan, limit);
  const found = await runPlanned<{ id: Id }>(plan, pageQuery(plan, { offset, limit, isReversed: false }));
  return listShown(
    resource,
    found.map(({ id }) => id),
    context,
  );
}

/**
 * The first page, in one statement. Its limit is written into the text: with one that it does not know, PostgreSQL
 * believes in no plan for all and makes one anew each time.
 */
function readFirst(plan: Plan, limit: number): Promise<Shown[]> {
  const { resource, query, context } = plan;
  const compose = (inside: Plan) => {
    const { sql } = inside.context;
    const slice = { offset: sql`0`, limit: sql.unsafe(String(limit)), isReversed: false };
    return sql<Shown[]>`
      with page as materialized (${pageQuery(inside, slice)})
      select ${selectShown(resource, inside.context)}
      from page
      join ${sql(resource.name)} t on t.id = page.id
      order by ${toOrder(resource, query, inside.context)}
    `;
  };
  if (query.conditions.length > 0) return compose(plan);
  // The plain page is asked for most, and its text depends on little.
  return ask<Shown[]>(resource, `first ${limit} ${query.sort} ${query.order}`, context, (inside) =>
    compose(planOf(resource, query, inside)),
  );
}

/** Runs a statement about a list: a combination is planned for its values, another's plan may be kept. */
async function runPlanned<T extends object>({ isAdHoc, context: { sql } }: Plan, statement: Fragment): Promise<T[]> {
  return isAdHoc ? runOnce<T[]>(sql, statement) : ((await statement) as unknown as T[]);
}

/** The exact number of rows. */
async function count(plan: Plan): Promise<number> {
  const { resource, query, context } = plan;
  const [sum] =
    query.conditions.length > 0
      ? await runPlanned<{ total: number }>(plan, totalQuery(plan))
      : await ask<{ total: number }[]>(resource, "total", context, (inside) =>
          totalQuery(planOf(resource, query, inside)),
        );
  return sum?.total ?? 0;
}

/** The id of a path; one of the wrong form names nothing. @throws Problem "not-found" */
export function parseId(resource: Resource, text: string): number | string {
  if (resource.id === "text") {
    if (text.includes("\0")) throw notFound(resource, text); // PostgreSQL has no such text
    return text;
  }
  if (!/^[1-9]\d{0,9}$/.test(text) || Number(text) > maxId) throw notFound(resource, text);
  return Number(text);
}

/** The same words for what does not exist and what this viewer may not see. */
export function notFound(resource: Resource, id: number | string): Problem {
  return new Problem("not-found", { detail: `There is no ${resource.singular} ${id}` });
}

/** An object as the viewer sees it, or null when it may not. */
export async function findShown(resource: Resource, id: number | string, context: Context): Promise<Shown | null> {
  const [row] = await ask<Shown[]>(
    resource,
    "object",
    context,
    (inside, slot) => inside.sql`
      select ${selectShown(resource, inside)}
      from ${inside.sql(resource.name)} t
      where t.id = ${slot<number>("id")}
        and ${resource.visible(inside)}
    `,
    { id },
  );
  return row ?? null;
}

export function toArray(resource: Resource, ids: Id[], sql: Context["sql"]): Fragment {
  return resource.id === "integer" ? sql`${ids as number[]}::int[]` : sql`${ids as string[]}::text[]`;
}

/** The objects of some ids, in the ids' order, as the viewer sees them; those that it may not see are left out. */
export async function listShown(resource: Resource, ids: Id[], context: Context): Promise<Shown[]> {
  if (ids.length === 0) return [];
  return ask<Shown[]>(
    resource,
    "objects",
    context,
    (inside, slot) => inside.sql`
      select ${selectShown(resource, inside)}
      from unnest(${toArray(resource, slot("ids"), inside.sql)}) with ordinality wanted (id, place)
      join ${inside.sql(resource.name)} t on t.id = wanted.id
      where ${resource.visible(inside)}
      order by wanted.place
    `,
    { ids },
  );
}

/** The JSON texts that this viewer is answered. */
export async function view(resource: Resource, rows: Shown[], context: Context): Promise<string[]> {
  const { links } = context;
  if (!isShaped(resource)) {
    const texts = rows.map((row) => links.sign(row.json));
    return enliven(resource, texts, context);
  }
  const whole = rows.map((row): Row => ({ ...row, ...JSON.parse(links.sign(row.json)) }));
  if (whole.length > 0) await resource.prepare?.(context, whole);
  return whole.map((row) => JSON.stringify(shape(resource, row, context)));
}

/** Only what has such a field to fill in is parsed for it. */
async function enliven(resource: Resource, texts: string[], context: Context): Promise<string[]> {
  const rules = resource.enliven;
  if (!rules || !texts.some(rules.concerns)) return texts;
  const objects = texts.map((text) => (rules.concerns(text) ? (JSON.parse(text) as Record<string, unknown>) : null));
  await rules.fill(
    context,
    objects.filter((object) => object !== null),
  );
  return texts.map((text, i) => (objects[i] ? JSON.stringify(objects[i]) : text));
}

const shaped = new WeakMap<Resource, boolean>();

/** Whether the database's words are not yet what viewers get. */
function isShaped(resource: Resource): boolean {
  const known = shaped.get(resource) ?? Object.values(resource.fields).some((field) => field.shape || field.see);
  shaped.set(resource, known);
  return known;
}

function shape(resource: Resource, row: Row, context: Context): Record<string, unknown> {
  const shown: Record<string, unknown> = {};
  const mine = isOwnerOrAdmin(context.viewer, row);
  for (const [name, field] of Object.entries(resource.fields)) {
    const { see = "everyone" } = field;
    if (see === "everyone" || (see === "owner" ? mine : context.viewer.admin)) {
      shown[name] = field.shape ? field.shape(row[name], row, context) : row[name];
    }
  }
  return shown;
}

/** One object as JSON text, and its ETag. @throws Problem "not-found" */
export async function detail(resource: Resource, idText: string, context: Context) {
  checkReader(resource, context);
  const id = parseId(resource, idText);
  const row = await findShown(resource, id, context);
  if (!row) throw notFound(resource, id);
  const [json = ""] = await view(resource, [row], context);
  return { json, etag: etagOf(resource, row, context) };
}

/**
 * Opaque to callers; for us the revision, the version and whose view it is: an owner's answer differs from a guest's.
 */
export function etagOf(
  resource: Resource,
  row: Pick<Row, "id" | "version" | "revision" | "owner_id">,
  { viewer }: Context,
): string {
  const as = viewer.admin ? "a" : isOwnerOrAdmin(viewer, row) ? "o" : `v${viewer.id ?? ""}`;
  return `"${resource.name}-${row.id}-${row.revision}-${row.version}-${as}"`;
}

/** Whether `If-Match` names the row's revision: progress and counters, which move only the version, do not matter. */
export function matchesRevision(header: string, resource: Resource, row: Row): boolean {
  if (header.trim() === "*") return true;
  // None of ours holds a comma. A weak tag never matches: RFC 9110 wants the strong comparison here.
  const mine = `"${resource.name}-${row.id}-${row.revision}-`;
  return header
    .split(",")
    .map((tag) => tag.trim())
    .some((tag) => tag.startsWith(mine) && /^\d+-(a|o|v\d*)"$/.test(tag.slice(mine.length)));
}

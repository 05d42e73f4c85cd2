/** The generic reads: a page, one object, and the view that no row leaves without. */
import type { Fragment } from "postgres";
import { type Compiled, compile, fill } from "../db/compiled.ts";
import { Problem } from "../problems.ts";
import { type Context, isOwnerOrAdmin, type Resource, type Row } from "./define.ts";
import { maxId } from "./limits.ts";
import { type ListQuery, parseListQuery, toOrder } from "./listview.ts";
import { deepOffset, pageQuery, readTotal, type Slice, totalQuery } from "./page.ts";

export interface ListView {
  page: number;
  page_size: number;
  total: number;
  /** Absent when the total is exact. */
  total_exact?: false;
  next: boolean;
  list: Record<string, unknown>[];
}

/** @throws Problem "token-required" or "forbidden" when this viewer may not read the resource at all */
export function checkReader(resource: Resource, context: Context): void {
  if (resource.readers === "users" && context.viewer.id === null) throw new Problem("token-required");
}

/** `select` list over the alias `t`: the fields, and what the rules need. */
export function selectFields(resource: Resource, context: Context): Fragment {
  return statement(resource, "fields", context, (inside) => {
    const { sql } = inside;
    const fields = Object.entries(resource.fields).map(([name, field]) =>
      field.select ? sql`${field.select(inside)} as ${sql(name)}` : sql`t.${sql(name)}`,
    );
    const rules = sql`t.id, t.version, t.revision, ${sql.unsafe(resource.owner)} as owner_id`;
    return fields.reduce((all, field) => sql`${all}, ${field}`, rules);
  });
}

const statements = new WeakMap<Resource, Map<string, Compiled>>();

/**
 * A statement about a resource that was composed before for this kind of viewer (a guest, a user, an admin), or now.
 * @param name of the statement, with whatever else its text depends on
 * @param values for the slots that `build` names beside the viewer's own
 */
export function statement(
  resource: Resource,
  name: string,
  context: Context,
  build: (context: Context, slot: <T>(name: string) => T) => Fragment,
  values: Record<string, unknown> = {},
): Fragment {
  const { viewer } = context;
  const key = `${name} ${viewer.admin ? "admin" : viewer.id === null ? "guest" : "user"}`;
  const known = statements.get(resource) ?? new Map<string, Compiled>();
  statements.set(resource, known);
  let compiled = known.get(key);
  if (!compiled) {
    compiled = compile((slot) => {
      const own = {
        admin: viewer.admin,
        id: viewer.id === null ? null : slot<number>("viewer"),
        sessionId: viewer.id === null ? null : slot<string>("session"),
      };
      return build({ ...context, viewer: own }, slot);
    });
    known.set(key, compiled);
  }
  return fill(context.sql, compiled, { viewer: viewer.id, session: viewer.sessionId, ...values });
}

/** @throws Problem "invalid-query" */
export async function list(resource: Resource, query: URLSearchParams, context: Context): Promise<ListView> {
  checkReader(resource, context);
  const parsed = parseListQuery(resource, query, context);
  const offset = (parsed.page - 1) * parsed.pageSize;
  const { rows, counted } =
    offset < deepOffset
      ? await readNear(resource, parsed, offset, context)
      : await readDeep(resource, parsed, offset, context);
  const { total, isExact } = readTotal(parsed, counted);
  return {
    page: parsed.page,
    page_size: parsed.pageSize,
    total,
    ...(isExact ? {} : { total_exact: false }),
    next: isExact ? offset + parsed.pageSize < total : rows.length > parsed.pageSize,
    list: await view(resource, rows.slice(0, parsed.pageSize), context),
  };
}

interface Found {
  rows: Row[];
  counted: number;
}

/** A page near the start: its rows and the total, asked for at once. */
async function readNear(resource: Resource, query: ListQuery, offset: number, context: Context): Promise<Found> {
  // One row more tells whether there is a next page where the total is not counted out.
  const limit = query.pageSize + 1;
  const slice = { offset, limit, reach: offset + limit, isReversed: false };
  const [rows, counted] = await Promise.all([
    readRows(resource, query, context, slice),
    count(resource, query, context),
  ]);
  return { rows, counted };
}

/** A page far out: the total first, then from the nearer end, both in one snapshot. */
async function readDeep(resource: Resource, query: ListQuery, offset: number, context: Context): Promise<Found> {
  const found = await context.sql.begin("isolation level repeatable read read only", async (tx) => {
    const inside = { ...context, sql: tx as unknown as Context["sql"] };
    const counted = await count(resource, query, inside);
    const { isExact } = readTotal(query, counted);
    const limit = query.pageSize + 1;
    if (isExact && offset >= counted) return { rows: [], counted };
    const isReversed = isExact && offset > counted / 2;
    const from = isReversed ? Math.max(0, counted - offset - limit) : offset;
    const size = isReversed ? Math.min(limit, counted - offset) : limit;
    const slice = { offset: from, limit: size, reach: from + size, isReversed };
    return { rows: await readRows(resource, query, inside, slice), counted };
  });
  return found as Found;
}

/** The rows of a page: found by id, then fetched, always in the order asked for. */
function readRows(resource: Resource, query: ListQuery, context: Context, slice: Slice): Promise<Row[]> {
  const compose = (inside: Context, part: typeof slice) => inside.sql<Row[]>`
    with page as materialized (${pageQuery(resource, query, inside, part)})
    select ${selectFields(resource, inside)}
    from page
    join ${inside.sql(resource.name)} t on t.id = page.id
    order by ${toOrder(resource, query, inside)}
  `;
  if (query.conditions.length > 0) return compose(context, slice);
  // The plain page is asked for most, and its text depends on little.
  const { isReversed, ...values } = slice;
  const name = `page ${query.sort} ${query.order} ${isReversed}`;
  const plain = statement(
    resource,
    name,
    context,
    (inside, slot) =>
      compose(inside, { offset: slot("offset"), limit: slot("limit"), reach: slot("reach"), isReversed }),
    values,
  );
  return plain as unknown as Promise<Row[]>;
}

/** The exact number of rows, see `readTotal`. */
async function count(resource: Resource, query: ListQuery, context: Context): Promise<number> {
  const total =
    query.conditions.length > 0
      ? totalQuery(resource, query, context)
      : statement(resource, "total", context, (inside) => totalQuery(resource, query, inside));
  const [sum] = (await total) as unknown as { total: number }[];
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

/** The row of an object that the viewer may see, or null. `lock` keeps others from writing it. */
export async function findRow(
  resource: Resource,
  id: number | string,
  context: Context,
  lock = false,
): Promise<Row | null> {
  const found = statement(
    resource,
    `row ${lock}`,
    context,
    (inside, slot) => inside.sql`
      select ${selectFields(resource, inside)}
      from ${inside.sql(resource.name)} t
      where t.id = ${slot<number>("id")}
        and ${resource.visible(inside)}
      ${lock ? inside.sql`for update of t` : inside.sql``}
    `,
    { id },
  );
  const [row] = (await found) as unknown as Row[];
  return row ?? null;
}

/** @throws Problem "not-found" */
export async function getRow(resource: Resource, id: number | string, context: Context, lock = false): Promise<Row> {
  const row = await findRow(resource, id, context, lock);
  if (!row) throw notFound(resource, id);
  return row;
}

/** Shapes rows for this viewer. */
export async function view(resource: Resource, rows: Row[], context: Context): Promise<Record<string, unknown>[]> {
  if (resource.prepare && rows.length > 0) await resource.prepare(context, rows);
  return rows.map((row) => {
    const shown: Record<string, unknown> = {};
    const mine = isOwnerOrAdmin(context.viewer, row);
    for (const [name, field] of Object.entries(resource.fields)) {
      const sees =
        field.see === undefined || field.see === "everyone" || (field.see === "owner" ? mine : context.viewer.admin);
      if (sees) shown[name] = field.shape ? field.shape(row[name], row, context) : row[name];
      else if (field.elseNull) shown[name] = null;
    }
    return shown;
  });
}

/** One object and its ETag. */
export async function detail(resource: Resource, idText: string, context: Context) {
  checkReader(resource, context);
  const row = await getRow(resource, parseId(resource, idText), context);
  const [object] = await view(resource, [row], context);
  return { object: object as Record<string, unknown>, etag: etagOf(resource, row, context) };
}

/**
 * Opaque to callers; for us the revision, the version and whose view it is: an owner's answer differs from a guest's.
 */
export function etagOf(resource: Resource, row: Row, { viewer }: Context): string {
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

/**
 * How a page is found at a cost that does not grow with the table. A viewer's rows lie in one or two ranges of an
 * ordered index: the public ones, and those private ones that the viewer may see. A page merges the heads of these
 * ranges by id alone and fetches the twenty rows afterwards; a total is read from counters (sql/0013_lists.sql).
 * What no such index serves is left to PostgreSQL's planner and counted.
 */
import type { Fragment } from "postgres";
import type { Context, Filter, Resource } from "./define.ts";
import { type Condition, commonValues, type ListQuery, tagIds, toOrder, toWhere } from "./listview.ts";

/** A search may stop counting here. */
const maxSearchTotal = 10_000;
/** From this offset on, it pays to know the total first and to come from the nearer end. */
export const deepOffset = 1_000;

/** One range of the ordered indexes: public rows (-1), all private rows (0), or one user's private rows (its id). */
type Scope = number;

interface Plan {
  resource: Resource;
  query: ListQuery;
  context: Context;
  scopes: Scope[];
  /** The one filter beside `public`, or null when there is none. */
  only: Condition | null;
}

/** The plan for a query that the indexes serve; null for others. */
function planOf(resource: Resource, query: ListQuery, context: Context): Plan | null {
  if (!resource.lists) return null;
  const isPublic = (condition: Condition) =>
    condition.filter.kind === "boolean" && condition.filter.column === "public";
  const rest = query.conditions.filter((condition) => !isPublic(condition));
  const [only = null, ...more] = rest;
  if (more.length > 0 || only?.filter.kind === "search") return null;
  if (only?.filter.kind === "tag" && only.sets.length > 1) return null;
  const wanted = query.conditions.filter(isPublic).flatMap((condition) => condition.sets);
  const isWanted = (value: boolean) => wanted.every((set) => set.includes(value));
  const { viewer } = context;
  const mine: Scope[] = viewer.admin ? [0] : viewer.id === null ? [] : [viewer.id];
  const scopes = resource.lists.isOwned ? [...(isWanted(true) ? [-1] : []), ...(isWanted(false) ? mine : [])] : [-1];
  return { resource, query, context, scopes, only };
}

/** A query for the exact number of rows, as one column `total`. */
export function totalQuery(resource: Resource, query: ListQuery, context: Context): Fragment {
  const { sql } = context;
  const plan = planOf(resource, query, context);
  const counted = plan && countedValues(plan);
  if (plan && counted) {
    const { dim, values } = counted;
    return sql`select list_total(${resource.name}, ${dim}, ${values}, ${scopesOf(plan)}) as total`;
  }
  const where = toWhere(resource, query, context);
  if (query.conditions.some((condition) => condition.filter.kind === "search")) {
    return sql`
      select count(*) as total
      from (select from ${sql(resource.name)} t where ${where} limit ${maxSearchTotal + 1}) found
    `;
  }
  return sql`select count(*) as total from ${sql(resource.name)} t where ${where}`;
}

function scopesOf({ scopes, context: { sql } }: Plan): Fragment {
  if (scopes.length === 0) return sql`'{}'::int[]`;
  const list = scopes.map((scope) => sql`${scope}::int`).reduce((all, scope) => sql`${all}, ${scope}`);
  return sql`array[${list}]`;
}

/** What a counted total means: over ten thousand hits of a search are not counted out. */
export function readTotal(query: ListQuery, counted: number): { total: number; isExact: boolean } {
  const isSearch = query.conditions.some((condition) => condition.filter.kind === "search");
  const isExact = !isSearch || counted <= maxSearchTotal;
  return { total: isExact ? counted : maxSearchTotal, isExact };
}

/** The counters that hold the total, or null when rows could be counted twice, or are not counted by this column. */
function countedValues({ resource, only, context }: Plan): { dim: string; values: Fragment } | null {
  const { sql } = context;
  if (!only) return { dim: "", values: sql`array['']` };
  const { filter, sets } = only;
  if (filter.kind === "tag") {
    const [names = []] = sets;
    return new Set(names).size === 1
      ? { dim: "tag", values: sql`array(select id::text from (${tagIds(names, context)}) g)` }
      : null;
  }
  if (!("column" in filter) || !resource.lists?.counted.includes(filter.column)) return null;
  return { dim: filter.column, values: sql`array(select v::text from (${valuesOf(filter, sets, context)}) given (v))` };
}

/** The values asked for as a query with one column; references only to what the viewer may see. */
function valuesOf(filter: Exclude<Filter, { kind: "search" }>, sets: Condition["sets"], context: Context): Fragment {
  const { sql } = context;
  const values = commonValues(sets);
  if (filter.kind !== "id") return sql`select unnest(${values as string[]}::text[])`;
  const ids = sql`${values as number[]}::int[]`;
  return filter.visible ? sql`${filter.visible(context)} and t.id = any (${ids})` : sql`select unnest(${ids})`;
}

/** A part of a list, counted from its end when `isReversed`. */
export interface Slice {
  offset: number;
  limit: number;
  /** `offset + limit`: how far each of the merged ranges may have to be read. */
  reach: number;
  isReversed: boolean;
}

/** A query for the ids of one page, in order; the order is turned when the slice is reversed. */
export function pageQuery(resource: Resource, query: ListQuery, context: Context, slice: Slice): Fragment {
  const { sql } = context;
  const { offset, limit, reach, isReversed } = slice;
  const order = toOrder(resource, query, context, isReversed);
  const plan = planOf(resource, query, context);
  const isIndexed = plan && (plan.only === null || (query.sort === null && isMerged(plan.only, resource)));
  if (!isIndexed) {
    return sql`
      select t.id from ${sql(resource.name)} t
      where ${toWhere(resource, query, context)}
      order by ${order}
      limit ${limit} offset ${offset}
    `;
  }
  const branches = plan.scopes.map((scope) => branch(plan, scope, order, reach));
  if (branches.length === 0) return sql`select null::int as id limit 0`;
  const all = branches.reduce((merged, next) => sql`${merged} union all ${next}`);
  // A row with two of the tags lies in two branches.
  const isDoubled = plan.only?.filter.kind === "tag" && (plan.only.sets[0]?.length ?? 0) > 1;
  const merged = isDoubled ? sql`select distinct t.id from (${all}) t` : all;
  return sql`select t.id from (${merged}) t order by ${order} limit ${limit} offset ${offset}`;
}

/** Whether the filter's column leads an ordered index; others (an id, a task's few images) find few rows anyway. */
function isMerged({ filter }: Condition, resource: Resource): boolean {
  return filter.kind === "tag" || ("column" in filter && (resource.lists?.counted.includes(filter.column) ?? false));
}

/** The first ids of one range, or of one range per value. */
function branch({ resource, query, context, only }: Plan, scope: Scope, order: Fragment, limit: number): Fragment {
  const { sql } = context;
  const key = query.sort ? sql`, t.${sql.unsafe(resource.sorts[query.sort]?.by ?? "id")}` : sql``;
  const within = !resource.lists?.isOwned
    ? sql`true`
    : scope === -1
      ? sql`t.public = true`
      : scope === 0
        ? sql`t.public = false`
        : sql`not t.public and t.user_id = ${scope}`;
  if (!only) {
    return sql`(select t.id${key} from ${sql(resource.name)} t where ${within} order by ${order} limit ${limit})`;
  }
  const { filter, sets } = only;
  if (filter.kind === "search") throw new Error("a search has no ordered range");
  const isTag = filter.kind === "tag";
  const from = isTag
    ? sql`(select p.row_id as id, p.tag_id, p.public, p.user_id from ${sql(resource.lists?.tags ?? "")} p)`
    : sql`${sql(resource.name)}`;
  const column = isTag ? sql`t.tag_id` : sql`t.${sql(filter.column)}`;
  const range = (value: Fragment) =>
    sql`select t.id from ${from} t where ${within} and ${column} = ${value} order by ${order} limit ${limit}`;
  const values = isTag ? tagIds(sets[0] ?? [], context) : valuesOf(filter, sets, context);
  const [single, ...more] = isTag ? new Set(sets[0]) : commonValues(sets);
  const isPlain = !isTag && !(filter.kind === "id" && filter.visible);
  if (isPlain && single !== undefined && more.length === 0) return sql`(${range(sql`${single as string | number}`)})`;
  if (single !== undefined && more.length === 0) return sql`(${range(sql`(${values})`)})`;
  return sql`(select r.id from (${values}) given (value) cross join lateral (${range(sql`given.value`)}) r)`;
}

/**
 * How a page is found at a cost that does not grow with the table. A viewer's rows lie in one or two ranges of an
 * ordered index: the public ones, and those private ones that the viewer may see. A page merges the heads of these
 * ranges by id alone and fetches the twenty rows afterwards; a total is read from counters (sql/0013_lists.sql), or, of
 * a combination of filters, counted in the narrowest filter's index, which holds the others' columns too
 * (sql/0080_combinations.sql). What no such index serves is left to PostgreSQL's planner.
 */
import type { Fragment } from "postgres";
import { matchEntries } from "../search/entries.ts";
import type { Context, Resource } from "./define.ts";
import { type Condition, commonValues, type ListQuery, tagIds, toCondition, toOrder } from "./listview.ts";

/** A search counts its hits out up to here. */
export const maxSearchTotal = 10_000;
/** From this offset on, it pays to know the total first and to come from the nearer end. */
export const deepOffset = 1_000;
/** A union of more tags is made distinct rather than taken apart. */
const maxApart = 8;

/** One range of the ordered indexes: public rows (-1), all private rows (0), or one user's private rows (its id). */
type Scope = number;

/** How a list will be read. */
export interface Plan {
  resource: Resource;
  query: ListQuery;
  context: Context;
  scopes: Scope[];
  /** The filters beside `public`. */
  conditions: Condition[];
  /** Whether ranges of indexes serve it. */
  isRanged: boolean;
  /**
   * A combination, of which there are too many to keep a plan for each: planned for its own values, since how rare they
   * are decides what is read first.
   */
  isAdHoc: boolean;
  /** Of a combination, the ids that each `tag` parameter asks for, the rarest first. */
  tags: number[][];
  /** Whether the rarest tag has fewer rows than any other filter. */
  isLedByTag: boolean;
}

const isTag = ({ filter }: Condition) => filter.kind === "tag";
export const isSearch = ({ filter }: Condition) => filter.kind === "search";

/** Asks, for a combination, what its values are and how rare: the planner knows of values, not of look-ups. */
export async function planList(resource: Resource, query: ListQuery, context: Context): Promise<Plan> {
  const asked = planOf(resource, query, context);
  if (!asked.isAdHoc) return asked;
  const conditions = await Promise.all(query.conditions.map((condition) => withoutLookUp(condition, context)));
  const plan = planOf(resource, { ...query, conditions }, context);
  const sets = plan.conditions.filter(isTag).flatMap((condition) => condition.sets);
  if (sets.length === 0) return plan;
  const [tags, fewest] = await Promise.all([readTags(resource, sets as string[][], context), countNarrowest(plan)]);
  return { ...plan, tags: tags.map(({ ids }) => ids), isLedByTag: (tags[0]?.rows ?? 0) <= fewest };
}

/** The references that this viewer may see in place of the look-up whether it may. */
async function withoutLookUp(condition: Condition, context: Context): Promise<Condition> {
  const { filter } = condition;
  if (filter.kind !== "id" || !filter.visible) return condition;
  const { sql } = context;
  const seen = await sql<{ id: number }[]>`select id from (${valuesOf(condition, context)}) given (id)`;
  return { filter: { ...filter, visible: undefined }, sets: [seen.map(({ id }) => id)] };
}

/** The plan of a query that is no combination. */
export function planOf(resource: Resource, query: ListQuery, context: Context): Plan {
  const isPublic = ({ filter }: Condition) => filter.kind === "boolean" && filter.column === "public";
  const conditions = query.conditions.filter((condition) => !isPublic(condition));
  const wanted = query.conditions.filter(isPublic).flatMap((condition) => condition.sets);
  const isWanted = (value: boolean) => wanted.every((set) => set.includes(value));
  const { viewer } = context;
  const mine: Scope[] = viewer.admin ? [0] : viewer.id === null ? [] : [viewer.id];
  const scopes = resource.lists?.isOwned ? [...(isWanted(true) ? [-1] : []), ...(isWanted(false) ? mine : [])] : [-1];
  const [only] = conditions;
  const isRanged =
    resource.lists !== undefined &&
    !conditions.some(isSearch) &&
    (!only || conditions.some((condition) => isLeading(condition, resource)));
  const isAdHoc =
    conditions.length > 1 ||
    (only !== undefined && (isTag(only) ? only.sets.flat().length > 1 || query.sort !== null : query.sort !== null));
  return { resource, query, context, scopes, conditions, isRanged, isAdHoc, tags: [], isLedByTag: true };
}

/** Whether the filter's column leads an ordered index; others (an id, a task's few images) find few rows anyway. */
function isLeading({ filter }: Condition, { lists }: Resource): boolean {
  return filter.kind === "tag" || ("column" in filter && (lists?.counted.includes(filter.column) ?? false));
}

/** What each parameter asks for, the rarest first. A row with two of its tags counts twice. */
async function readTags({ name }: Resource, sets: string[][], { sql }: Context) {
  const known = await sql<{ name: string; id: number; rows: number }[]>`
    select n as name, g.id, list_total(${name}, 'tag', array[g.id::text], array[-1, 0]) as rows
    from unnest(${[...new Set(sets.flat())]}::text[]) n
    join tags g on lower(g.name) = lower(n)
  `;
  return sets
    .map((set) => {
      const rows = new Map(known.filter((tag) => set.includes(tag.name)).map((tag) => [tag.id, tag.rows]));
      return { ids: [...rows.keys()], rows: [...rows.values()].reduce((sum, one) => sum + one, 0) };
    })
    .sort((a, b) => a.rows - b.rows);
}

/** How many rows the most selective of the counted columns leaves. */
async function countNarrowest({ resource, conditions, context: { sql } }: Plan): Promise<number> {
  const counts = conditions
    .filter((condition) => !isTag(condition) && isLeading(condition, resource))
    .map(({ filter, sets }) => {
      const column = "column" in filter ? filter.column : "";
      return sql`list_total(${resource.name}, ${column}, ${commonValues(sets).map(String)}::text[], array[-1, 0])`;
    });
  if (counts.length === 0) return Number.POSITIVE_INFINITY;
  const [row] = await sql<{ rows: number }[]>`
    select least(${counts.reduce((all, one) => sql`${all}, ${one}`)}) as rows
  `;
  return row?.rows ?? 0;
}

/** A query for the exact number of rows, as one column `total`. */
export function totalQuery(plan: Plan): Fragment {
  const { resource, context, scopes } = plan;
  const { sql } = context;
  const counted = countedValues(plan);
  if (counted) {
    const { dim, values } = counted;
    return sql`select list_total(${resource.name}, ${dim}, ${values}, ${scopesOf(plan)}) as total`;
  }
  if (isImpossible(plan)) return sql`select 0 as total`;
  if (plan.isRanged) {
    const counts = scopes.flatMap((scope) => countsOf(plan, scope));
    return sql`select ${counts.reduce((sum, count) => sql`${sum} + (${count})`, sql`0`)} as total`;
  }
  return sql`select count(*) as total from ${sql(resource.name)} t where ${whereOf(plan)}`;
}

/** A tag that nobody has made. */
function isImpossible({ tags }: Plan): boolean {
  return tags.some((ids) => ids.length === 0);
}

function scopesOf({ scopes, context: { sql } }: Plan): Fragment {
  if (scopes.length === 0) return sql`'{}'::int[]`;
  const list = scopes.map((scope) => sql`${scope}::int`).reduce((all, scope) => sql`${all}, ${scope}`);
  return sql`array[${list}]`;
}

/** Whether counters hold the total: it costs next to nothing. */
export function isCounted(plan: Plan): boolean {
  return countedValues(plan) !== null;
}

/** The counters that hold the total, or null when rows could be counted twice, or are not counted by this column. */
function countedValues({ resource, conditions, context, isRanged }: Plan): { dim: string; values: Fragment } | null {
  const { sql } = context;
  const [only, ...more] = conditions;
  if (!isRanged || more.length > 0) return null;
  if (!only) return { dim: "", values: sql`array['']` };
  const { filter, sets } = only;
  if (filter.kind === "tag") {
    return sets.length === 1 && new Set(sets[0]).size === 1
      ? { dim: "tag", values: sql`array(select id::text from (${tagIds(sets[0] ?? [], context)}) g)` }
      : null;
  }
  if (!("column" in filter) || !resource.lists?.counted.includes(filter.column)) return null;
  return { dim: filter.column, values: sql`array(select v::text from (${valuesOf(only, context)}) given (v))` };
}

/** The values asked for as a query with one column; references only to what the viewer may see. */
function valuesOf({ filter, sets }: Condition, context: Context): Fragment {
  const { sql } = context;
  const values = commonValues(sets);
  if (filter.kind !== "id") return sql`select unnest(${values as string[]}::text[])`;
  const ids = sql`${values as number[]}::int[]`;
  return filter.visible ? sql`${filter.visible(context)} and t.id = any (${ids})` : sql`select unnest(${ids})`;
}

/**
 * A query for the hits of a search, up to one more than are counted out, with the column that orders them. Entries repeat
 * who may see their row (sql/0151_search_scopes.sql): of a plain search nothing else is read.
 */
export function hitsQuery(plan: Plan): Fragment {
  const { resource, query, context, conditions, scopes } = plan;
  const { sql } = context;
  const [only, ...more] = conditions;
  const isPlain = resource.lists?.isOwned && query.sort === null && only && isSearch(only) && more.length === 0;
  const hits = isPlain
    ? sql`
        select t.id
        from (
          select e.row_id as id, e.public, e.user_id
          from search_entries e
          where ${matchEntries(sql, resource.name, only.sets as string[][])}
        ) t
        where ${scopes.reduce((any, scope) => sql`${any} or ${withinOf(plan, scope)}`, sql`false`)}
      `
    : sql`select t.id${sortKey(plan)} from ${sql(resource.name)} t where ${whereOf(plan)}`;
  return sql`${hits} limit ${maxSearchTotal + 1}`;
}

/** The column of the order asked for, to be selected beside the id. */
function sortKey({ resource, query, context: { sql } }: Plan): Fragment {
  return query.sort ? sql`, t.${sql.unsafe(resource.sorts[query.sort]?.by ?? "id")}` : sql``;
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
export function pageQuery(plan: Plan, slice: Slice): Fragment {
  const { resource, query, context, scopes, conditions } = plan;
  const { sql } = context;
  const order = toOrder(resource, query, context, slice.isReversed);
  const page = sql`order by ${order} limit ${slice.limit} offset ${slice.offset}`;
  if (!plan.isRanged) return sql`select t.id from ${sql(resource.name)} t where ${whereOf(plan)} ${page}`;
  if (scopes.length === 0 || isImpossible(plan)) return sql`select null::int as id limit 0`;
  // The primary key has an admin's rows in one range.
  if (conditions.length === 0 && query.sort === null && scopes.length === 2 && scopes.includes(0)) {
    return sql`select t.id from ${sql(resource.name)} t ${page}`;
  }
  const ranges = scopes.map((scope) => rangeOf(plan, scope));
  const [first] = ranges;
  if (first && !first.values && ranges.length === 1) return sql`${first.rows} ${page}`;
  const head = sql`order by ${order} limit ${slice.reach}`;
  const all = ranges
    .map(({ rows, values }) =>
      values
        ? sql`(select r.id from (${values}) given (value) cross join lateral (${rows} ${head}) r)`
        : sql`(${rows} ${head})`,
    )
    .reduce((merged, next) => sql`${merged} union all ${next}`);
  // A row with two of the tags lies in two ranges.
  const merged = first?.values && conditions.some(isTag) ? sql`select distinct t.id from (${all}) t` : all;
  return sql`select t.id from (${merged}) t ${page}`;
}

/** Rows of one scope, or, with `values`, of one scope for each `given.value`. */
interface Range {
  rows: Fragment;
  values?: Fragment;
}

function rangeOf(plan: Plan, scope: Scope): Range {
  const { resource, query, context, conditions, tags } = plan;
  const { sql } = context;
  const key = sortKey(plan);
  const select = (condition: Fragment, from: Fragment = sql`${sql(resource.name)}`) =>
    sql`select t.id${key} from ${from} t where ${withinOf(plan, scope)} and ${condition}`;
  const [only, ...more] = conditions;
  if (query.sort === null && conditions.some(isTag) && plan.isLedByTag) {
    const [rarest = [], ...others] = tags;
    const rest = and(plan, [...others.map((ids) => carries(ids, context)), ...besideTags(plan)]);
    const posted = (id: Fragment) => select(sql`t.tag_id = ${id} and ${rest}`, postingsOf(plan));
    if (rarest.length > 1) return { rows: posted(sql`given.value`), values: sql`select unnest(${rarest}::int[])` };
    return {
      rows: posted(rarest[0] === undefined ? sql`(${tagIds(only?.sets[0] ?? [], context)})` : sql`${rarest[0]}`),
    };
  }
  if (query.sort === null && only && more.length === 0) {
    const { filter, sets } = only;
    const column = sql`t.${sql("column" in filter ? filter.column : "")}`;
    const [single, ...several] = commonValues(sets);
    if (single === undefined || several.length > 0) {
      return { rows: select(sql`${column} = given.value`), values: valuesOf(only, context) };
    }
    const value = filter.kind === "id" && filter.visible ? sql`(${valuesOf(only, context)})` : sql`${single as number}`;
    return { rows: select(sql`${column} = ${value}`) };
  }
  return { rows: select(and(plan, [...postedOf(plan, scope), ...columnsOf(plan)])) };
}

/** Counts that add up to the rows of one scope. */
function countsOf(plan: Plan, scope: Scope): Fragment[] {
  const { resource, context, tags } = plan;
  const { sql } = context;
  const within = withinOf(plan, scope);
  const [rarest, ...others] = tags;
  if (!rarest || !plan.isLedByTag) {
    const rest = and(plan, [...columnsOf(plan), ...tags.map((ids) => carries(ids, context))]);
    return [sql`select count(*) from ${sql(resource.name)} t where ${within} and ${rest}`];
  }
  const rest = and(plan, [...others.map((ids) => carries(ids, context)), ...besideTags(plan)]);
  const rows = sql`from ${postingsOf(plan)} t where ${within} and ${rest}`;
  if (rarest.length > maxApart) {
    return [sql`select count(distinct t.id) ${rows} and t.tag_id = any (${rarest}::int[])`];
  }
  // Each row counts with the first of the tags that it has.
  return rarest.map((id, i) => {
    const first = i === 0 ? sql`true` : sql`not ${carries(rarest.slice(0, i), context)}`;
    return sql`select count(*) ${rows} and t.tag_id = ${id} and ${first}`;
  });
}

function withinOf({ resource, context: { sql } }: Plan, scope: Scope): Fragment {
  if (!resource.lists?.isOwned) return sql`true`;
  if (scope === -1) return sql`t.public = true`;
  return scope === 0 ? sql`t.public = false` : sql`not t.public and t.user_id = ${scope}`;
}

/** The postings of tags, with the row's id and the columns that they repeat under the names that rows have. */
function postingsOf({ resource: { lists }, context: { sql } }: Plan): Fragment {
  const { postings = "", columns = [] } = lists?.tags ?? {};
  const repeated = columns.map((column) => sql`p.${sql(column)}`).reduce((all, one) => sql`${all}, ${one}`, sql``);
  return sql`(select p.row_id as id, p.tag_id, p.public, p.user_id, p.tag_ids ${repeated} from ${sql(postings)} p)`;
}

function carries(ids: number[], { sql }: Context): Fragment {
  return sql`t.tag_ids && ${ids}::int[]`;
}

/** Conditions other than tags, over postings: what these do not repeat is asked of the rows. */
function besideTags(plan: Plan): Fragment[] {
  const { resource, context, conditions } = plan;
  const { sql } = context;
  const repeated = ["user_id", ...(resource.lists?.tags?.columns ?? [])];
  return conditions
    .filter((condition) => !isTag(condition))
    .flatMap((condition) => {
      const asked = toCondition(resource, condition, context);
      if ("column" in condition.filter && repeated.includes(condition.filter.column)) return asked;
      return [sql`t.id in (select t.id from ${sql(resource.name)} t where ${and(plan, asked)})`];
    });
}

/** Conditions other than tags, over rows. */
function columnsOf({ resource, context, conditions }: Plan): Fragment[] {
  return conditions
    .filter((condition) => !isTag(condition))
    .flatMap((condition) => toCondition(resource, condition, context));
}

/** Tags as conditions over rows; a rare one leads to them. */
function postedOf({ resource, context, tags, isLedByTag }: Plan, scope: Scope): Fragment[] {
  const { sql } = context;
  const [rarest, ...others] = tags;
  if (!rarest || !isLedByTag) return tags.map((ids) => carries(ids, context));
  const postings = sql(resource.lists?.tags?.postings ?? "");
  const posted = sql`
    t.id in (select p.row_id from ${postings} p where p.tag_id = any (${rarest}::int[]) and p.public = ${scope === -1})
  `;
  return [posted, ...others.map((ids) => carries(ids, context))];
}

/** All of a query that no ranges serve, the visibility rule included. */
function whereOf(plan: Plan): Fragment {
  const { resource, query, context, tags } = plan;
  const isKnown = (condition: Condition) => isTag(condition) && tags.length > 0;
  return and(plan, [
    resource.visible(context),
    ...tags.map((ids) => carries(ids, context)),
    ...query.conditions
      .filter((condition) => !isKnown(condition))
      .flatMap((condition) => toCondition(resource, condition, context)),
  ]);
}

function and({ context: { sql } }: Plan, conditions: Fragment[]): Fragment {
  return conditions.reduce((all, condition) => sql`${all} and ${condition}`, sql`true`);
}

/**
 * How a page is found at a cost that does not grow with the table. A viewer's rows lie in one or two ranges of an
 * ordered index: the public ones, and those private ones that the viewer may see. A page merges the heads of these
 * ranges by id alone and fetches the twenty rows afterwards; a total is read from counters (sql/0160_blocks.sql), or, of
 * a combination of filters, counted in the narrowest filter's index, which holds the others' columns too
 * (sql/0080_combinations.sql). What no such index serves is left to PostgreSQL's planner.
 */
import type { Fragment } from "postgres";
import { matchEntries } from "../search/entries.ts";
import type { Context } from "./define.ts";
import { type Condition, commonValues, orderOf, tagIds, toCondition, toOrder } from "./listview.ts";
import { isSearch, isTag, type Plan, type Scope, valuesOf } from "./plan.ts";

/** A search counts its hits out up to here. */
export const maxSearchTotal = 10_000;
/** A union of more tags is made distinct rather than taken apart. */
const maxApart = 8;

/** A query for the exact number of rows, as one column `total`. */
export function totalQuery(plan: Plan): Fragment {
  const { resource, context, scopes } = plan;
  const { sql } = context;
  const counted = countsFrom(plan, sql`list_total`);
  if (counted) return sql`select total ${counted}`;
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

/**
 * `from` and the counters of a list, which are read by `list_total` or `list_blocks` (sql/0160_blocks.sql); null where
 * rows could be counted twice, or are not counted by this column.
 */
export function countsFrom(plan: Plan, reader: Fragment): Fragment | null {
  const { resource, context } = plan;
  const { sql } = context;
  const counted = countedValues(plan);
  if (!counted) return null;
  // The values apart: PostgreSQL puts no function into a statement whose arguments are queries.
  return sql`
    from (select ${counted.values} as values) asked
    cross join lateral ${reader}(${resource.name}, ${counted.dim}, asked.values, ${scopesOf(plan)})
  `;
}

/** By which column and which of its values the rows are counted. */
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
    : sql`select ${orderColumns(plan)} from ${sql(resource.name)} t where ${whereOf(plan)}`;
  return sql`${hits} limit ${maxSearchTotal + 1}`;
}

/** The columns of the order asked for, the id among them, to be selected. */
function orderColumns({ resource, query, context: { sql } }: Plan): Fragment {
  return sql.unsafe(
    orderOf(resource, query)
      .columns.map((column) => `t.${column}`)
      .join(", "),
  );
}

type Amount = number | Fragment;

/** A part of a list, counted from its end when `isReversed`. */
export interface Slice {
  offset: Amount;
  limit: Amount;
  isReversed: boolean;
  /** A condition on `t.id`, beyond which the slice is counted. */
  bound?: Fragment;
}

/** A query for the ids of one page, in order; the order is turned when the slice is reversed. */
export function pageQuery(plan: Plan, slice: Slice): Fragment {
  const { resource, query, context, scopes, conditions } = plan;
  const { sql } = context;
  const order = toOrder(resource, query, context, slice.isReversed);
  const page = sql`order by ${order} limit ${slice.limit} offset ${slice.offset}`;
  const bound = slice.bound ? sql`and ${slice.bound}` : sql``;
  if (!plan.isRanged) return sql`select t.id from ${sql(resource.name)} t where ${whereOf(plan)} ${page}`;
  if (scopes.length === 0 || isImpossible(plan)) return sql`select null::int as id limit 0`;
  // The primary key has an admin's rows in one range.
  if (conditions.length === 0 && query.sort === null && scopes.length === 2 && scopes.includes(0)) {
    return sql`select t.id from ${sql(resource.name)} t where true ${bound} ${page}`;
  }
  const ranges = rangesOf(plan);
  const [first] = ranges;
  if (first && !first.values && ranges.length === 1) return sql`${first.rows} ${bound} ${page}`;
  const reach = reachOf(slice, context);
  const merged = merge(ranges, sql`${bound} order by ${order} limit ${reach}`, context);
  // A row with two of the tags lies in two ranges.
  const rows = first?.values && conditions.some(isTag) ? sql`select distinct t.id from (${merged}) t` : merged;
  return sql`select t.id from (${rows}) t ${page}`;
}

/** How far each of merged ranges may have to be read. */
export function reachOf({ offset, limit }: Slice, { sql }: Context): Fragment {
  return sql`${offset}::bigint + ${limit}::bigint`;
}

/** The heads of ranges. @param head what is added to each range's query */
export function merge(ranges: Range[], head: Fragment, { sql }: Context): Fragment {
  return ranges
    .map(({ rows, values }) =>
      values
        ? sql`(select r.id from (${values}) given (value) cross join lateral (${rows} ${head}) r)`
        : sql`(${rows} ${head})`,
    )
    .reduce((merged, next) => sql`${merged} union all ${next}`);
}

export function rangesOf(plan: Plan): Range[] {
  return plan.scopes.map((scope) => rangeOf(plan, scope));
}

/** Rows of one scope, or, with `values`, of one scope for each `given.value`; conditions may be added to the query. */
export interface Range {
  rows: Fragment;
  values?: Fragment;
}

function rangeOf(plan: Plan, scope: Scope): Range {
  const { resource, query, context, conditions, tags } = plan;
  const { sql } = context;
  const columns = orderColumns(plan);
  const select = (condition: Fragment, from: Fragment = sql`${sql(resource.name)}`) =>
    sql`select ${columns} from ${from} t where ${withinOf(plan, scope)} and ${condition}`;
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
    const values = valuesOf(only, context);
    if (commonValues(sets).length !== 1) return { rows: select(sql`${column} = given.value`), values };
    // A query hides the value from the planner, which else believes in a plan for each value and makes it every time.
    return { rows: select(sql`${column} = (${values})`) };
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
  const [only, ...more] = ids;
  // For one tag PostgreSQL compares faster so.
  return only !== undefined && more.length === 0 ? sql`${only} = any (t.tag_ids)` : sql`t.tag_ids && ${ids}::int[]`;
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

/**
 * Pages far from the start, found from the nearer end and, where possible, without walking there. In order of id, the
 * totals by block of ids tell in which block a page starts (sql/0160_blocks.sql). In another order two ranges are not
 * merged all the way: see `leapQuery`.
 */
import type { Fragment } from "postgres";
import { orderOf, toOrder } from "./listview.ts";
import { countsFrom, merge, pageQuery, rangesOf, reachOf, type Slice, totalQuery } from "./page.ts";
import type { Plan } from "./plan.ts";

/** From this offset on, it pays. */
export const deepOffset = 1_000;

/**
 * A query for a page far out, as one row: the `total` of the list and the page's `ids`, turned round when `is_reversed`.
 * One statement sees one snapshot: where a page lies depends on the total.
 */
export function deepQuery(plan: Plan, offset: number): Fragment {
  const { context, query, scopes, conditions } = plan;
  const { sql } = context;
  const counts = query.sort === null ? countsFrom(plan, sql`list_blocks`) : null;
  const isMerged = query.sort !== null && plan.isRanged && scopes.length === 2 && conditions.length === 0;
  const ids = (isReversed: boolean) => {
    const isDescending = orderOf(plan.resource, query, isReversed).direction === "desc";
    const slice: Slice = {
      offset: sql`(select skip from place)`,
      limit: sql`(select size from place)`,
      isReversed,
      bound: counts ? sql`t.id ${isDescending ? sql`<=` : sql`>=`} (select bound from place)` : undefined,
    };
    return sql`array(select p.id from (${isMerged ? leapQuery(plan, slice) : pageQuery(plan, slice)}) p)`;
  };
  // Of a case, PostgreSQL evaluates one branch only.
  return sql`
    with ${counts ? placeByBlock(plan, counts, offset) : placeByTotal(plan, offset)}
    select total, is_reversed, to_json(case when is_reversed then ${ids(true)} else ${ids(false)} end) as ids
    from place
  `;
}

/**
 * The table `place`: how many rows the page has (`size`), how many come before it (`skip`) counted from the nearer end,
 * and which end that is.
 */
function placeByTotal(plan: Plan, offset: number): Fragment {
  const { context, query } = plan;
  const { sql } = context;
  return sql`
    total as materialized (
      ${totalQuery(plan)}
    ), place as materialized (
      select total, size, rest - size < ${offset}::bigint as is_reversed, least(${offset}::bigint, rest - size) as skip
      from total
      cross join lateral (select greatest(total - ${offset}::bigint, 0) as rest) r
      cross join lateral (select least(rest, ${query.pageSize}::bigint) as size) s
    )
  `;
}

/**
 * The same, counted from an end of the block that has the page's first row, or from the other end of the block that has
 * its last: the `bound`.
 */
function placeByBlock({ resource, context, query }: Plan, counts: Fragment, offset: number): Fragment {
  const { sql } = context;
  const { direction } = orderOf(resource, query);
  const [start, end] = direction === "desc" ? [sql`last_id`, sql`first_id`] : [sql`first_id`, sql`last_id`];
  return sql`
    blocks as materialized (
      select ${start} as start_id, ${end} as end_id, up_to - n as before, up_to
      from (
        select first_id, last_id, n, (sum(n) over (order by first_id ${sql.unsafe(direction)}))::bigint as up_to ${counts}
      ) b
    ), place as materialized (
      select total, size, back < ahead as is_reversed, least(ahead, back) as skip,
        case when back < ahead then end_id else start_id end as bound
      from (select coalesce(max(up_to), 0) as total from blocks) t
      cross join lateral (
        select greatest(least(${query.pageSize}::bigint, total - ${offset}::bigint), 0) as size
      ) s
      left join lateral (
        select start_id, ${offset}::bigint - before as ahead from blocks where ${offset}::bigint >= before and ${offset}::bigint < up_to
      ) f on true
      left join lateral (
        select end_id, up_to - ${offset}::bigint - size as back
        from blocks
        where ${offset}::bigint + size > before and ${offset}::bigint + size <= up_to
      ) l on true
    )
  `;
}

/**
 * A page of two merged ranges. Merging takes half as long again as walking, so the first range is walked alone, by its
 * share of what comes before the page, the rows of the second that come before the row found there are counted, and
 * only from there on the ranges are merged. Should this have led beyond the page, they are merged from the start.
 */
function leapQuery(plan: Plan, slice: Slice): Fragment {
  const { resource, query, context, scopes } = plan;
  const { sql } = context;
  const order = toOrder(resource, query, context, slice.isReversed);
  const { columns, direction } = orderOf(resource, query, slice.isReversed);
  const key = (alias: string) => sql.unsafe(columns.map((column) => `${alias}.${column}`).join(", "));
  const [before, onward] = direction === "desc" ? [sql`>`, sql`<=`] : [sql`<`, sql`>=`];
  const ranges = rangesOf(plan);
  const [first = sql``, second = sql``] = ranges.map(({ rows }) => rows);
  const passed = sql`(select passed from start)`;
  return sql`
    with share as materialized (
      select greatest(skip * of_first.total / place.total - skip / 64 - 100, 0) as leap
      from place, (${totalQuery({ ...plan, scopes: scopes.slice(0, 1) })}) of_first
      where place.total > 0
    ), leapt as materialized (
      select p.*, leap + (select count(*) from (${second} and (${key("t")}) ${before} (${key("p")})) t) as passed
      from share
      cross join lateral (${first} order by ${order} limit 1 offset leap) p
    ), start as materialized (
      (select * from leapt where passed <= ${slice.offset})
      union all
      (select t.*, 0 from (${merge(ranges, sql`order by ${order} limit 1`, context)}) t order by ${order} limit 1)
      limit 1
    )
    select t.id
    from (${merge(
      ranges,
      sql`
        and (${key("t")}) ${onward} (select ${key("start")} from start)
        order by ${order} limit ${reachOf(slice, context)} - ${passed}
      `,
      context,
    )}) t
    order by ${order} limit ${slice.limit} offset ${slice.offset} - ${passed}
  `;
}

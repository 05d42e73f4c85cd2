/** How a list will be read: by which ranges of which indexes, and, of a combination of filters, which one leads. */
import type { Fragment } from "postgres";
import type { Context, Resource } from "./define.ts";
import { type Condition, commonValues, type ListQuery } from "./listview.ts";

/** One range of the ordered indexes: public rows (-1), all private rows (0), or one user's private rows (its id). */
export type Scope = number;

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

export const isTag = ({ filter }: Condition) => filter.kind === "tag";
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
    select n as name, g.id, total as rows
    from unnest(${[...new Set(sets.flat())]}::text[]) n
    join tags g on lower(g.name) = lower(n)
    cross join lateral list_total(${name}, 'tag', array[g.id::text], array[-1, 0])
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
      const values = sql`${commonValues(sets).map(String)}::text[]`;
      return sql`(select total from list_total(${resource.name}, ${column}, ${values}, array[-1, 0]))`;
    });
  if (counts.length === 0) return Number.POSITIVE_INFINITY;
  const [row] = await sql<{ rows: number }[]>`
    select least(${counts.reduce((all, one) => sql`${all}, ${one}`)}) as rows
  `;
  return row?.rows ?? 0;
}

/** The values asked for as a query with one column; references only to what the viewer may see. */
export function valuesOf({ filter, sets }: Condition, context: Context): Fragment {
  const { sql } = context;
  const values = commonValues(sets);
  if (filter.kind !== "id") return sql`select unnest(${values as string[]}::text[])`;
  const ids = sql`${values as number[]}::int[]`;
  return filter.visible ? sql`${filter.visible(context)} and t.id = any (${ids})` : sql`select unnest(${ids})`;
}

/** The list rules: how a query string becomes conditions, an order and a page. */
import type { Fragment } from "postgres";
import { builtinCatalogue } from "../params/catalogue.ts";
import { type Fault, Problem } from "../problems.ts";
import { matchEntries } from "../search/entries.ts";
import type { Context, Filter, Resource } from "./define.ts";
import { defaultPageSize, maxId, maxPage, maxPageSize, maxValues } from "./limits.ts";

export type Value = string | number | boolean;

/** An intersection (outer) of unions (inner). */
export interface Condition {
  filter: Filter;
  sets: Value[][];
}

export interface ListQuery {
  page: number;
  pageSize: number;
  /** A name of the resource's sorts; null is the plain order, by id. */
  sort: string | null;
  order: "asc" | "desc" | null;
  conditions: Condition[];
}

const controls = ["page", "pageSize", "sort", "order"];

/** All filters of a resource: the named ones, and `search` where there is one. */
export function filtersOf(resource: Resource): [string, Filter][] {
  const search: [string, Filter][] = resource.isSearchable ? [["search", { kind: "search" }]] : [];
  return [...Object.entries(resource.filters), ...search];
}

/** Those that this viewer may use. */
function usableFilters(resource: Resource, context: Context): [string, Filter][] {
  return filtersOf(resource).filter(([, f]) => f.see !== "admin" || context.viewer.admin);
}

/** @throws Problem "invalid-query" naming every fault at once */
export function parseListQuery(resource: Resource, query: URLSearchParams, context: Context): ListQuery {
  const errors: Fault[] = [];
  const fail = (parameter: string, detail: string) => errors.push({ parameter, detail });
  const filters = new Map(usableFilters(resource, context));
  const one = (name: string): string | null => {
    const values = query.getAll(name);
    if (values.length > 1) fail(name, "may be given only once");
    if (values[0] === "") fail(name, "is empty");
    return values[0] ?? null;
  };
  const count = (name: string, fallback: number, maximum: number): number => {
    const text = one(name);
    if (!text) return fallback;
    const value = /^\d{1,15}$/.test(text) ? Number(text) : 0;
    if (value < 1 || value > maximum) fail(name, `must be a whole number from 1 to ${maximum}`);
    return value;
  };

  const page = count("page", 1, maxPage);
  const pageSize = count("pageSize", defaultPageSize, maxPageSize);
  const sort = one("sort");
  const sorts = Object.keys(resource.sorts).filter((name) => !resource.sorts[name]?.see || context.viewer.admin);
  if (sort && !sorts.includes(sort)) fail("sort", `is unknown; there are: ${sorts.join(", ")}`);
  const order = one("order");
  if (order && order !== "asc" && order !== "desc") fail("order", "must be asc or desc");

  const conditions: ListQuery["conditions"] = [];
  for (const name of new Set(query.keys())) {
    if (controls.includes(name)) continue;
    const filter = filters.get(name);
    if (!filter) {
      const known = [...filters.keys(), ...controls];
      const near = nearest(name, known);
      fail(name, `is unknown${near ? `; did you mean ${near}?` : ""}; there are: ${known.join(", ")}`);
      continue;
    }
    const sets = query.getAll(name).map((text) =>
      text.split(",").map((part) => {
        if (part.trim() === "") fail(name, "has an empty value");
        if (part.includes("\0")) fail(name, "holds a NUL character");
        return readValue(filter, part.trim(), (detail) => fail(name, detail));
      }),
    );
    if (sets.flat().length > maxValues) fail(name, `has over ${maxValues} values`);
    conditions.push({ filter, sets });
  }
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "The query has faults", errors });
  return { page, pageSize, sort, order: order as ListQuery["order"], conditions };
}

/** The values of an enum with their Chinese labels, where they have any. */
export function choicesOf(filter: Extract<Filter, { kind: "enum" }>): { value: string; label: string }[] {
  if (filter.values) return filter.values.map((value) => ({ value, label: value }));
  // The built-in ones: rows that were stored before an admin narrowed the choices can still be found.
  const choices = builtinCatalogue.get(filter.entry, filter.field).enum ?? [];
  return choices.map(({ value, label }) => ({ value, label: label.zh }));
}

function readValue(filter: Filter, text: string, fail: (detail: string) => void): string | number | boolean {
  switch (filter.kind) {
    case "id":
      if (!/^\d+$/.test(text)) fail(`must be a whole number, not ${JSON.stringify(text)}`);
      // Beyond the column's range no row can match; 0 says so, since ids start at 1.
      return Number(text) > maxId ? 0 : Number(text);
    case "boolean":
      if (text !== "true" && text !== "false") fail("must be true or false");
      return text === "true";
    case "enum": {
      const choices = choicesOf(filter);
      const found = choices.find(({ value, label }) => value === text || label === text);
      if (!found) fail(`must be one of: ${choices.map(({ value }) => value).join(", ")}`);
      return found?.value ?? text;
    }
    case "tag":
      return text.normalize("NFKC");
    case "text":
    case "search":
      return text;
  }
}

/** The conditions as SQL over the alias `t`, the visibility rule included. */
export function toWhere(resource: Resource, { conditions }: ListQuery, context: Context): Fragment {
  const { sql } = context;
  return conditions
    .flatMap((condition) => toCondition(resource, condition, context))
    .reduce((all, condition) => sql`${all} and ${condition}`, resource.visible(context));
}

/** One condition as SQL over the alias `t`. */
export function toCondition(resource: Resource, { filter, sets }: Condition, context: Context): Fragment[] {
  const { sql } = context;
  if (filter.kind === "search") {
    const matches = matchEntries(sql, resource.name, sets as string[][]);
    return [sql`t.id in (select e.row_id from search_entries e where ${matches})`];
  }
  if (filter.kind === "tag") {
    return sets.map(
      (names) => sql`t.id in (
        select p.row_id from ${sql(resource.lists?.tags?.postings ?? "")} p where p.tag_id in (${tagIds(names, context)})
      )`,
    );
  }
  const values = commonValues(sets);
  const column = sql`t.${sql(filter.column)}`;
  if (filter.kind === "boolean") {
    const wanted = [...new Set(values)] as boolean[];
    return [
      wanted.length === 2 ? sql`true` : wanted.length === 1 ? sql`${column} = ${wanted[0] === true}` : sql`false`,
    ];
  }
  const wanted = filter.kind === "id" ? sql`${values as number[]}::int[]` : sql`${values as string[]}::text[]`;
  // A reference to something this viewer may not see reads as null, so nothing may be found by it either.
  if (filter.kind === "id" && filter.visible) {
    return [sql`${column} in (${filter.visible(context)} and t.id = any (${wanted}))`];
  }
  return values.length === 1 && values[0] !== undefined
    ? [sql`${column} = ${values[0] as string | number}`]
    : [sql`${column} = any (${wanted})`];
}

/** One value a row: repeated parameters intersect the sets before the database sees them. */
export function commonValues(sets: Value[][]): Value[] {
  return [...new Set(sets.reduce((common, set) => common.filter((value) => set.includes(value))))];
}

/** The ids of tags by name, compared as tag names are: without case. */
export function tagIds(names: Value[], { sql }: Context): Fragment {
  return sql`
    select g.id from tags g where lower(g.name) in (select lower(n) from unnest(${names as string[]}::text[]) n)
  `;
}

/** What orders a list, in one direction; total, since the id breaks ties. */
export function orderOf({ sorts }: Resource, { sort, order }: Pick<ListQuery, "sort" | "order">, isReversed = false) {
  const chosen = sort ? sorts[sort] : undefined;
  const asked = order ?? chosen?.direction ?? "asc";
  const turned = asked === "asc" ? "desc" : "asc";
  return { columns: chosen ? [chosen.by, "id"] : ["id"], direction: isReversed ? turned : asked };
}

/** The order as SQL. */
export function toOrder(
  resource: Resource,
  query: Pick<ListQuery, "sort" | "order">,
  { sql }: Context,
  isReversed = false,
): Fragment {
  const { columns, direction } = orderOf(resource, query, isReversed);
  return sql.unsafe(columns.map((column) => `t.${column} ${direction}`).join(", "));
}

/** The known name that is at most two edits away. */
function nearest(name: string, known: string[]): string | null {
  const distances = known.map((candidate) => ({
    candidate,
    edits: editDistance(name.toLowerCase(), candidate.toLowerCase()),
  }));
  const best = distances.sort((a, b) => a.edits - b.edits)[0];
  return best && best.edits <= 2 ? best.candidate : null;
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const current = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substituted = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substituted, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}

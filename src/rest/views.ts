/**
 * Rows shown to all kinds of viewers at once, for the relay: however many watch a row, it is read once. What somebody
 * sees of a row follows from a role, but for the few to whom it shows something of their own.
 */
import type { Fragment } from "postgres";
import { guest, type Viewer } from "../auth/viewer.ts";
import { type Compiled, compile, run } from "../db/compiled.ts";
import type { Context, Filter, Resource, Row } from "./define.ts";
import { type Condition, commonValues, type ListQuery, parseListQuery, toWhere, type Value } from "./listview.ts";
import { findShown, type Shown, selectJson, view } from "./read.ts";

/** Strangers are guests and whoever has nothing to do with a row; an admin is here one who owns nothing of it. */
export const roles = ["stranger", "owner", "admin"] as const;
export type Role = (typeof roles)[number];

/** A row and what each of the roles asked for sees of it. */
export interface Seen {
  id: number | string;
  version: number;
  ownerId: number | null;
  /** See `Resource.insiders`. */
  insiders: number[];
  /** The columns that plain filters compare. */
  plain: Record<string, Value | null>;
  /** JSON text; null where the row is out of sight. */
  as: Partial<Record<Role, string | null>>;
}

/** The `owner` of what belongs to nobody. */
const nobody = "null::int";

/** In whose place a role's view is taken. The owner is the row's own, whoever that is: one statement serves all rows. */
function standIn(resource: Resource, role: Role, { sql }: Context): Viewer {
  if (role === "stranger") return guest;
  if (role === "admin") return { id: 0, admin: true, sessionId: "" };
  return { id: sql.unsafe(resource.owner) as unknown as number, admin: false, sessionId: "" };
}

interface SeenRow extends Pick<Row, "id" | "version" | "revision" | "owner_id"> {
  insiders: number[];
  plain: Seen["plain"];
  stranger?: string | null;
  owner?: string | null;
  admin?: string | null;
}

const statements = new WeakMap<Resource, Map<string, Compiled>>();

/** The rows of some ids that exist, by id as text. */
export async function readSeen(
  resource: Resource,
  ids: (number | string)[],
  wanted: ReadonlySet<Role>,
  context: Context,
): Promise<Map<string, Seen>> {
  const asked = roles.filter((role) => wanted.has(role));
  const key = asked.join(" ");
  const known = statements.get(resource) ?? new Map<string, Compiled>();
  statements.set(resource, known);
  let compiled = known.get(key);
  if (!compiled) {
    compiled = compile((slot) => compose(resource, asked, context, slot));
    known.set(key, compiled);
  }
  const { base, mark } = context.links;
  const rows = await run<SeenRow[]>(context.sql, compiled, { ids, base, mark });
  const seen = rows.map(({ id, version, owner_id, insiders, plain }): Seen => {
    return { id, version, ownerId: owner_id, insiders, plain, as: {} };
  });
  for (const role of asked) {
    const texts = await shown(resource, role, rows, context);
    for (const [index, one] of seen.entries()) one.as[role] = texts[index] ?? null;
  }
  return new Map(seen.map((one) => [String(one.id), one]));
}

function compose(resource: Resource, asked: Role[], context: Context, slot: <T>(name: string) => T): Fragment {
  const { sql } = context;
  const links = { ...context.links, base: slot<string>("base"), mark: slot<string>("mark") };
  const views = asked.map((role) => {
    const inside = { ...context, links, viewer: standIn(resource, role, context) };
    return sql`case when ${resource.visible(inside)} then ${selectJson(resource, inside)} end as ${sql(role)}`;
  });
  const plain = Object.values(resource.filters).filter(isPlain);
  const columns = plain.map(({ column }) => sql`${sql.unsafe(`'${column}'`)}, t.${sql(column)}`);
  const pairs = columns.length > 0 ? columns.reduce((all, pair) => sql`${all}, ${pair}`) : sql``;
  return sql`
    select t.id, t.version, t.revision, ${sql.unsafe(resource.owner)} as owner_id,
      ${resource.insiders ? resource.insiders(context) : sql`'{}'::int[]`} as insiders,
      json_build_object(${pairs}) as plain
      ${views.reduce((all, one) => sql`${all}, ${one}`, sql``)}
    from ${sql(resource.name)} t
    where t.id = any (${slot<number[]>("ids")}::${sql.unsafe(resource.id === "integer" ? "int[]" : "text[]")})
  `;
}

/** What goes out, by row; null where the row is out of sight. */
async function shown(resource: Resource, role: Role, rows: SeenRow[], context: Context): Promise<(string | null)[]> {
  const visible = rows.flatMap((row): Shown[] => {
    const json = row[role];
    return json == null ? [] : [{ ...row, json }];
  });
  const texts =
    role === "owner"
      ? await Promise.all(
          visible.map(async (row) => {
            const viewer = { id: row.owner_id, admin: false, sessionId: null };
            return (await view(resource, [row], { ...context, viewer }))[0] ?? null;
          }),
        )
      : await view(resource, visible, { ...context, viewer: standIn(resource, role, context) });
  const byId = new Map(visible.map((row, index) => [row.id, texts[index] ?? null]));
  return rows.map((row) => byId.get(row.id) ?? null);
}

/** Null when the viewer is shown what no role is: it has to be asked for in its own name. */
export function roleOf(resource: Resource, viewer: Viewer, seen: Pick<Seen, "ownerId" | "insiders">): Role | null {
  if (resource.isPersonal) return null;
  const isOwner = viewer.id !== null && viewer.id === seen.ownerId;
  const isInsider = viewer.id !== null && seen.insiders.includes(viewer.id);
  if (viewer.admin) return isOwner || isInsider ? null : "admin";
  if (isOwner) return "owner";
  return isInsider ? null : "stranger";
}

/** The roles that a viewer may turn out to have. */
export function rolesOf(resource: Resource, viewer: Viewer): Role[] {
  if (resource.isPersonal) return [];
  if (viewer.admin) return ["admin"];
  return viewer.id === null || resource.owner === nobody ? ["stranger"] : ["stranger", "owner"];
}

/** What one viewer is shown of a row, by a statement of its own: it may be newer than what others were read. */
export interface Own {
  version: number;
  text: string;
}

/** The row in the viewer's own name; null when it is out of sight. */
export async function readOwn(resource: Resource, id: number | string, context: Context): Promise<Own | null> {
  const row = await findShown(resource, id, context);
  const text = row && (await view(resource, [row], context))[0];
  return row && text ? { version: row.version, text } : null;
}

/** Filters that compare a column's value and nothing else. */
function isPlain(filter: Filter): filter is Extract<Filter, { column: string }> {
  return filter.kind !== "search" && filter.kind !== "tag" && !(filter.kind === "id" && filter.visible);
}

/** A list's conditions, split into those that the row's columns decide and those that need the database. */
export interface Conditions {
  holdsPlainly(seen: Seen): boolean;
  needsDatabase: boolean;
  /**
   * Which of the rows meet the conditions that need it, asked in a role's place (or, null, in the viewer's name), and in
   * which version.
   */
  filter(ids: (number | string)[], role: Role | null, context: Context): Promise<Map<string, number>>;
}

/** @throws Problem "invalid-query" */
export function readConditions(resource: Resource, params: URLSearchParams, context: Context): Conditions {
  const query = parseListQuery(resource, params, context);
  const isSimple = ({ filter }: Condition) => isPlain(filter);
  const simple = query.conditions.filter(isSimple).map(({ filter, sets }) => ({
    column: (filter as { column: string }).column,
    values: new Set(commonValues(sets)),
  }));
  const rest: ListQuery = { ...query, conditions: query.conditions.filter((condition) => !isSimple(condition)) };
  return {
    needsDatabase: rest.conditions.length > 0,
    holdsPlainly: ({ plain }) =>
      simple.every(({ column, values }) => {
        const value = plain[column];
        return value != null && values.has(value);
      }),
    async filter(ids, role, context) {
      const { sql } = context;
      const inside = role ? { ...context, viewer: standIn(resource, role, context) } : context;
      const rows = await sql<{ id: number | string; version: number }[]>`
        select t.id, t.version from ${sql(resource.name)} t
        where t.id = any (${ids as never}::${sql.unsafe(resource.id === "integer" ? "int[]" : "text[]")})
          and ${toWhere(resource, rest, inside)}
      `;
      return new Map(rows.map(({ id, version }) => [String(id), version]));
    },
  };
}

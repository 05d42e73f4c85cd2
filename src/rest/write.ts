/**
 * The generic writes: create, patch, delete. Each is one transaction; the access rule is judged inside it. A bulk goes
 * the same way as a single object, which is a bulk of one: all or nothing.
 */
import type { TransactionSql } from "postgres";
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { foldWritten } from "../search/entries.ts";
import type { Answer } from "./answer.ts";
import type { Columns, Context, Input, Resource, Row } from "./define.ts";
import { type Once, unkept } from "./idempotency.ts";
import { type Draft, faultsAt, readBodies, readInput, throwFaults } from "./input.ts";
import { all } from "./pipeline.ts";
import { checkReader, etagOf, listShown, matchesRevision, notFound, toArray, view } from "./read.ts";

/** What a write is about. A bulk is answered by a list, without an ETag, even when it names one object. */
export interface Target {
  ids: (number | string)[];
  isBulk: boolean;
}

/** @throws Problem "token-required", "forbidden", "invalid", or what the resource's hooks throw */
export async function create(
  resource: Resource,
  body: unknown,
  context: Context,
  once: Once = unkept,
): Promise<Answer> {
  const rules = resource.create;
  if (!rules) throw new Error(`${resource.name} has no create`);
  const { viewer } = context;
  if (rules.by !== "guests" && viewer.id === null) throw new Problem("token-required");
  if (rules.by === "admins" && !viewer.admin) throw new Problem("forbidden", { detail: "Only admins may do this" });
  rules.judge?.(context);
  const drafts = readBodies(resource, body).map(({ at, body }) => ({
    at,
    ...readInput(resource, rules, body, context),
  }));
  // What needs no database comes before slow work; a check may have more to say, and all faults are named at once.
  if (!rules.check) throwAll(drafts);
  const around = rules.around ?? ((_context, _input, work) => work());
  return around(context, drafts[0]?.input ?? {}, async () => {
    for (const { input } of drafts) await rules.before?.(context, input);
    return transaction(context, async (inside) => {
      await once.claim(inside.sql);
      // Copies, since a check writes to them and the transaction may go twice.
      const checked = drafts.map(({ at, input, faults }) => ({ at, input: { ...input }, faults: [...faults] }));
      await checkAll(checked, async ({ input, faults }) => rules.check?.(inside, input, faults));
      throwAll(checked);
      const made = await rules.insert(
        inside,
        checked.map(({ input }) => input),
      );
      await foldWritten(inside.sql);
      const seenBy = made[0]?.viewer ? { ...inside, viewer: made[0].viewer } : inside;
      const target = { ids: made.map(({ id }) => id), isBulk: Array.isArray(body) };
      const answer = await toAnswer(resource, target, seenBy, 201, made[0]?.extra);
      await once.keep(inside.sql, answer);
      return answer;
    });
  });
}

/** @throws Problem "not-found", "forbidden", "invalid", "precondition-failed", or what the resource's hooks throw */
export async function patch(
  resource: Resource,
  target: Target,
  body: unknown,
  context: Context,
  ifMatch?: string,
): Promise<Answer> {
  const rules = resource.patch;
  if (!rules) throw new Error(`${resource.name} has no patch`);
  if (context.viewer.id === null) throw new Problem("token-required");
  let early: Draft | null = null;
  if (rules.before || rules.around) {
    // Slow work must not hold the rows; but what is invisible or not the caller's is said before a body's faults.
    judgeWriter(resource, await getRows(resource, target.ids, context), context);
    early = readInput(resource, rules, body, context);
    if (!rules.check) throwFaults(early.faults);
  }
  const around = rules.around ?? ((_context, _input, work) => work());
  return around(context, early?.input ?? {}, async () => {
    if (early) await rules.before?.(context, early.input);
    return transaction(context, async (inside) => {
      const rows = await getRows(resource, target.ids, inside, true);
      judgeWriter(resource, rows, inside);
      const { input, faults } = early
        ? { input: { ...early.input }, faults: [] }
        : readInput(resource, rules, body, inside);
      await rules.check?.(inside, input, faults, rows);
      throwFaults(faults);
      judgeIfMatch(resource, rows, ifMatch);
      await update(resource, rows, await rules.change(inside, input, rows), inside);
      if (resource.isSearchable) await foldWritten(inside.sql);
      return toAnswer(resource, target, inside, 200);
    });
  });
}

/** @throws Problem "not-found", "forbidden", "precondition-failed", "in-use" */
export async function remove(resource: Resource, { ids }: Target, context: Context, ifMatch?: string): Promise<void> {
  checkReader(resource, context);
  if (context.viewer.id === null) throw new Problem("token-required");
  await transaction(context, async (inside) => {
    const { sql } = inside;
    const rows = await getRows(resource, ids, inside, true);
    judgeWriter(resource, rows, inside);
    judgeIfMatch(resource, rows, ifMatch);
    await resource.remove?.before?.(inside, rows);
    await sql`delete from ${sql(resource.name)} where id = any (${toArray(resource, ids, sql)})`;
  });
}

/**
 * The rows as the table has them, for rules and hooks, in the ids' order. `lock` keeps others from writing them; the locks are taken in order of id, so that two
 * bulks wait for each other instead of blocking each other.
 * @throws Problem "not-found" when any is missing or invisible
 */
async function getRows(resource: Resource, ids: Target["ids"], context: Context, lock = false): Promise<Row[]> {
  const { sql } = context;
  const found = await sql<Row[]>`
    select t.*, ${sql.unsafe(resource.owner)} as owner_id
    from ${sql(resource.name)} t
    where t.id = any (${toArray(resource, ids, sql)})
      and ${resource.visible(context)}
    order by t.id
    ${lock ? sql`for update of t` : sql``}
  `;
  const rows = new Map(found.map((row) => [row.id, row]));
  return ids.map((id) => {
    const row = rows.get(id);
    if (!row) throw notFound(resource, id);
    return row;
  });
}

/** One statement for all rows that get the same. */
async function update(resource: Resource, rows: Row[], change: Columns | Columns[], { sql }: Context): Promise<void> {
  const groups = new Map<Columns, Target["ids"]>();
  for (const [index, row] of rows.entries()) {
    const columns = Array.isArray(change) ? (change[index] ?? {}) : change;
    const group = groups.get(columns);
    if (group) group.push(row.id);
    else groups.set(columns, [row.id]);
  }
  for (const [columns, ids] of groups) {
    if (Object.keys(columns).length === 0) continue;
    await sql`
      update ${sql(resource.name)}
      set ${sql(columns)}
      where id = any (${toArray(resource, ids, sql)})
    `;
  }
}

async function toAnswer(
  resource: Resource,
  { ids, isBulk }: Target,
  context: Context,
  status: Answer["status"],
  extra?: Input,
): Promise<Answer> {
  const rows = await listShown(resource, ids, context);
  const objects = await view(resource, rows, context);
  if (isBulk) return { status, headers: {}, body: `{"list":[${objects.join(",")}]}` };
  const [row] = rows;
  if (!row) throw notFound(resource, ids[0] ?? "");
  const [json = ""] = objects;
  const headers = {
    ETag: etagOf(resource, row, context),
    ...(status === 201 ? { Location: `/api/${resource.name}/${ids[0]}` } : {}),
  };
  return { status, headers, body: extra ? JSON.stringify({ ...JSON.parse(json), ...extra }) : json };
}

function judgeWriter(resource: Resource, rows: Row[], context: Context): void {
  if (!rows.every((row) => resource.mayWrite(context.viewer, row))) throw new Problem("forbidden");
}

function judgeIfMatch(resource: Resource, rows: Row[], ifMatch: string | undefined): void {
  if (ifMatch === undefined) return;
  if (!rows.every((row) => matchesRevision(ifMatch, resource, row))) throw new Problem("precondition-failed");
}

function throwAll(drafts: (Draft & { at: string })[]): void {
  throwFaults(drafts.flatMap(({ at, faults }) => faultsAt(at, faults)));
}

/** Checks every draft of a bulk. A conflict with the present state is told only when no body has a fault. */
async function checkAll(drafts: Draft[], check: (draft: Draft) => Promise<void>): Promise<void> {
  const conflicts: Problem[] = [];
  await all(drafts, (draft) =>
    check(draft).catch((error) => {
      if (!(error instanceof Problem) || error.status !== 409) throw error;
      conflicts.push(error);
    }),
  );
  if (conflicts[0] && drafts.every(({ faults }) => faults.length === 0)) throw conflicts[0];
}

/** Two transactions that block each other: PostgreSQL ends one, which may simply go again. */
const isRepeatable = (error: unknown) => ["40P01", "40001"].includes((error as { code?: string })?.code ?? "");
const maxAttempts = 4;

/** Runs `work` with a context whose `sql` is a transaction: postgres.js would run the outer one elsewhere. */
export async function transaction<T>(context: Context, work: (inside: Context) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const done = await context.sql.begin(async (tx: TransactionSql) => {
        return { value: await work({ ...context, sql: tx as unknown as Sql }) };
      });
      return (done as { value: T }).value;
    } catch (error) {
      if (!isRepeatable(error)) throw error;
      if (attempt === maxAttempts) {
        const detail = "Others are writing to the same objects; try again";
        throw new Problem("conflict", { detail, headers: { "Retry-After": "1" }, cause: error });
      }
    }
  }
}

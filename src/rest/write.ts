/** The generic writes: create, patch, delete. Each is one transaction; the access rule is judged inside it. */
import type { TransactionSql } from "postgres";
import type { Sql } from "../db/client.ts";
import { type Fault, Problem } from "../problems.ts";
import type { Context, Input, Resource, Row, Shape } from "./define.ts";
import { checkReader, etagOf, getRow, matchesRevision, parseId, view } from "./read.ts";

export interface Written {
  object: Record<string, unknown>;
  etag: string;
  id: number | string;
}

/** @throws Problem "token-required", "forbidden", "invalid", or what the resource's hooks throw */
export async function create(resource: Resource, body: unknown, context: Context): Promise<Written> {
  const rules = resource.create;
  if (!rules) throw new Error(`${resource.name} has no create`);
  const { viewer } = context;
  if (rules.by !== "guests" && viewer.id === null) throw new Problem("token-required");
  if (rules.by === "admins" && !viewer.admin) throw new Problem("forbidden", { detail: "Only admins may do this" });
  const { input, faults } = readInput(resource, rules.shape, body, context, rules.adminFields);
  for (const name of rules.required) {
    if (input[name] === undefined && !faults.some((f) => "pointer" in f && f.pointer.startsWith(`/${name}`))) {
      faults.push({ pointer: `/${name}`, detail: "is required" });
    }
  }
  await rules.before?.(context, input);
  return transaction(context, async (inside) => {
    await rules.check?.(inside, input, faults);
    throwFaults(faults);
    const { id, extra, viewer: as } = await rules.insert(inside, input);
    const seenBy = as ? { ...inside, viewer: as } : inside;
    const row = await getRow(resource, id, seenBy);
    const [object] = await view(resource, [row], seenBy);
    return { object: { ...object, ...extra }, etag: etagOf(resource, row, seenBy), id };
  });
}

/** @throws Problem "not-found", "forbidden", "invalid", "precondition-failed", or what the resource's hooks throw */
export async function patch(
  resource: Resource,
  idText: string,
  body: unknown,
  context: Context,
  ifMatch: string | null,
): Promise<Written> {
  const rules = resource.patch;
  if (!rules) throw new Error(`${resource.name} has no patch`);
  if (context.viewer.id === null) throw new Problem("token-required");
  const id = parseId(resource, idText);
  // Judged once before the input is looked at, since what is invisible or not the caller's comes before its faults.
  checkWriter(resource, await getRow(resource, id, context), context);
  const { input, faults } = readInput(resource, rules.shape, body, context, rules.adminFields);
  await rules.before?.(context, input);
  return transaction(context, async (inside) => {
    const row = await getRow(resource, id, inside, true);
    checkWriter(resource, row, inside);
    await rules.check?.(inside, input, faults, row);
    throwFaults(faults);
    if (ifMatch !== null && !matchesRevision(ifMatch, resource, row)) throw new Problem("precondition-failed");
    const columns = await rules.change(inside, input, row);
    if (Object.keys(columns).length > 0) {
      await inside.sql`update ${inside.sql(resource.name)} set ${inside.sql(columns)} where id = ${id}`;
    }
    const after = await getRow(resource, id, inside);
    const [object] = await view(resource, [after], inside);
    return { object: object as Input, etag: etagOf(resource, after, inside), id };
  });
}

/** @throws Problem "not-found", "forbidden", "precondition-failed", "in-use" */
export async function remove(
  resource: Resource,
  idText: string,
  context: Context,
  ifMatch: string | null,
): Promise<void> {
  checkReader(resource, context);
  if (context.viewer.id === null) throw new Problem("token-required");
  const id = parseId(resource, idText);
  await transaction(context, async (inside) => {
    const row = await getRow(resource, id, inside, true);
    checkWriter(resource, row, inside);
    if (ifMatch !== null && !matchesRevision(ifMatch, resource, row)) throw new Problem("precondition-failed");
    await resource.remove?.before?.(inside, row);
    await inside.sql`delete from ${inside.sql(resource.name)} where id = ${id}`;
  });
}

function checkWriter(resource: Resource, row: Row, context: Context): void {
  if (!resource.mayWrite(context.viewer, row)) throw new Problem("forbidden");
}

/** Runs `work` with a context whose `sql` is a transaction: postgres.js would run the outer one elsewhere. */
async function transaction<T>(context: Context, work: (inside: Context) => Promise<T>): Promise<T> {
  const done = await context.sql.begin(async (tx: TransactionSql) => {
    return { value: await work({ ...context, sql: tx as unknown as Sql }) };
  });
  return (done as { value: T }).value;
}

/**
 * Validates a body field by field. What is unknown or read-only is a fault by name: nothing is dropped silently.
 * @returns the valid fields, and every fault found
 * @throws Problem "forbidden" for a field that only admins may write
 */
function readInput(
  resource: Resource,
  shape: Shape,
  body: unknown,
  context: Context,
  adminFields: readonly string[] = [],
): { input: Input; faults: Fault[] } {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new Problem("invalid", {
      detail: "The body must be a JSON object",
      errors: [{ pointer: "", detail: "must be an object" }],
    });
  }
  const schemas = shape(context.catalogue);
  const faults: Fault[] = [];
  const input: Input = {};
  for (const [name, value] of Object.entries(body)) {
    const pointer = `/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    const schema = Object.hasOwn(schemas, name) ? schemas[name] : undefined;
    if (!schema) {
      const detail = Object.hasOwn(resource.fields, name)
        ? "cannot be written here"
        : `is unknown; there are: ${Object.keys(schemas).join(", ")}`;
      faults.push({ pointer, detail });
      continue;
    }
    if (adminFields.includes(name) && !context.viewer.admin) {
      throw new Problem("forbidden", { detail: `Only admins may write ${name}` });
    }
    const parsed = schema.safeParse(value);
    if (parsed.success) input[name] = parsed.data;
    else {
      for (const issue of parsed.error.issues) {
        faults.push({ pointer: [pointer, ...issue.path.map(String)].join("/"), detail: issue.message });
      }
    }
  }
  return { input, faults };
}

function throwFaults(errors: Fault[]): void {
  const [first] = errors;
  if (!first) return;
  const where = "pointer" in first ? first.pointer : first.parameter;
  throw new Problem("invalid", {
    detail: `${where || "The body"}: ${first.detail}${errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""}`,
    errors,
  });
}

/** What a caller wrote, parsed once: the body's fields, and the ids that a bulk names. */
import { type Fault, Problem } from "../problems.ts";
import type { Context, Input, Resource, Shape } from "./define.ts";
import { maxBulk } from "./limits.ts";
import { parseId } from "./read.ts";

/** The valid fields of one body, and every fault found, with pointers into that body. */
export interface Draft {
  input: Input;
  faults: Fault[];
}

/**
 * Validates a body field by field. What is unknown or read-only is a fault by name: nothing is dropped silently.
 * @throws Problem "forbidden" for a field that only admins may write
 */
export function readInput(
  resource: Pick<Resource, "fields">,
  rules: { shape: Shape; required?: readonly string[]; adminFields?: readonly string[] },
  body: unknown,
  context: Context,
): Draft {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return { input: {}, faults: [{ pointer: "", detail: "must be a JSON object" }] };
  }
  const schemas = rules.shape(context.catalogue);
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
    if (rules.adminFields?.includes(name) && !context.viewer.admin) {
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
  for (const name of rules.required ?? []) {
    if (!Object.hasOwn(body, name)) faults.push({ pointer: `/${name}`, detail: "is required" });
  }
  return { input, faults };
}

/** The bodies of a POST with the pointers to them: one, or those of an array where the resource takes arrays. */
export function readBodies(resource: Resource, body: unknown): { at: string; body: unknown }[] {
  if (!resource.isBulk || !Array.isArray(body)) return [{ at: "", body }];
  if (body.length < 1 || body.length > maxBulk) {
    throwFaults([{ pointer: "", detail: `must hold 1 to ${maxBulk} objects, not ${body.length}` }]);
  }
  return body.map((one, index) => ({ at: `/${index}`, body: one }));
}

/**
 * The ids of a bulk, each once: `?id=1,2,3`. A repeated `id` intersects, as in lists. Nothing else is accepted, and
 * never nothing: a typing error must not write to everything.
 * @throws Problem "invalid-query"; "not-found" for an id that no row can have
 */
export function readIds(resource: Resource, query: URLSearchParams): (number | string)[] {
  const errors: Fault[] = [...new Set(query.keys())]
    .filter((parameter) => parameter !== "id")
    .map((parameter) => ({ parameter, detail: "is not accepted here; there is: id" }));
  const fail = (detail: string) => errors.push({ parameter: "id", detail });
  const sets = query.getAll("id").map((text) => [...new Set(text.split(",").map((part) => part.trim()))]);
  const parts = sets.flat();
  if (sets.length === 0) fail("is required: the ids to write to, separated by commas");
  for (const part of new Set(parts)) {
    if (part === "") fail("has an empty value");
    else if (resource.id === "integer" && !/^\d+$/.test(part)) {
      fail(`must be a whole number, not ${JSON.stringify(part)}`);
    }
  }
  if (sets.some((set) => set.length > maxBulk)) fail(`has over ${maxBulk} values`);
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "The query has faults", errors });
  const common = sets.reduce((all, set) => all.filter((part) => set.includes(part)));
  return [...new Set(common.map((part) => parseId(resource, part)))];
}

/** Faults as they read from the whole body of a bulk. */
export function faultsAt(at: string, faults: Fault[]): Fault[] {
  return faults.map((fault) => ("pointer" in fault ? { ...fault, pointer: `${at}${fault.pointer}` } : fault));
}

/** @throws Problem "invalid" naming every fault */
export function throwFaults(errors: Fault[]): void {
  const [first] = errors;
  if (!first) return;
  const where = "pointer" in first ? first.pointer : first.parameter;
  throw new Problem("invalid", {
    detail: `${where || "The body"}: ${first.detail}${errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""}`,
    errors,
  });
}

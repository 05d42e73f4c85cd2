/** The parameter catalogue in force: the built-in half with what admins changed, and the validators made from it. */

import { z } from "zod";
import type { Sql } from "../db/client.ts";
import { type Fault, Problem } from "../problems.ts";
import { builtin, type EntryName, type FieldName, type Parameter, type ParameterValue } from "./builtin.ts";
import { limitText } from "./text.ts";

export type Entry = Record<string, Parameter>;
/** Fields are looked up by name, so a field that an entry lacks is a bug that shows at once. */
export interface Catalogue {
  get(entry: EntryName, field: string): Parameter;
  /** The validator of a field's values, of their type. */
  schema<E extends EntryName, F extends FieldName<E>>(entry: E, field: F): FieldSchema<E, F>;
  entries: Record<EntryName, Entry>;
}

export type FieldSchema<E extends EntryName, F extends FieldName<E>> = z.ZodType<
  ParameterValue<E, F>,
  ParameterValue<E, F>
>;

/** What admins may change of a field. */
export const overrideSchema = z.record(
  z.string(),
  z.strictObject({
    default: z.unknown().optional(),
    minimum: z.number().nullable().optional(),
    maximum: z.number().nullable().optional(),
    enum: z.array(z.string()).min(1).nullable().optional(),
  }),
);
export type Overrides = z.infer<typeof overrideSchema>;

export const builtinCatalogue: Catalogue = toCatalogue({});

/** @param overrides by entry name; those of unknown fields are ignored (a field may have gone with an upgrade) */
export function toCatalogue(overrides: Record<string, Overrides>): Catalogue {
  const entries = Object.fromEntries(
    Object.entries(builtin).map(([name, entry]) => [name, applyOverrides(entry, overrides[name] ?? {})]),
  ) as Record<EntryName, Entry>;
  const get = (entry: EntryName, field: string): Parameter => {
    const parameter = entries[entry][field];
    if (!parameter) throw new Error(`the catalogue has no ${entry}.${field}`);
    return parameter;
  };
  return {
    entries,
    get,
    schema: <E extends EntryName, F extends FieldName<E>>(entry: E, field: F) =>
      toSchema(get(entry, field)) as FieldSchema<E, F>,
  };
}

/** The validators of several fields of one entry, by their names. */
export function pickSchemas<E extends EntryName, F extends FieldName<E>>(
  catalogue: Catalogue,
  entry: E,
  fields: readonly F[],
): { [K in F]: FieldSchema<E, K> } {
  return Object.fromEntries(fields.map((field) => [field, catalogue.schema(entry, field)])) as {
    [K in F]: FieldSchema<E, K>;
  };
}

/**
 * The schema of what a row may hold: the built-in choices, whatever admins have narrowed since. Of numbers the type
 * alone, since limits may be others than when the row was written.
 */
export function storedSchema<E extends EntryName, F extends FieldName<E>>(entry: E, field: F): FieldSchema<E, F> {
  const {
    minimum: _min,
    maximum: _max,
    multipleOf: _step,
    default: usual,
    ...kept
  } = builtinCatalogue.get(entry, field);
  const schema = toSchema(kept) as FieldSchema<E, F>;
  return usual === undefined ? schema : schema.meta({ ...schema.meta(), examples: [usual] });
}

export function applyOverrides(entry: Entry, overrides: Overrides): Entry {
  return Object.fromEntries(
    Object.entries(entry).map(([field, parameter]) => {
      const { enum: kept, ...limits } = overrides[field] ?? {};
      const changed = Object.fromEntries(Object.entries(limits).filter(([, value]) => value != null));
      return [
        field,
        { ...parameter, ...changed, ...(kept ? { enum: parameter.enum?.filter((c) => kept.includes(c.value)) } : {}) },
      ];
    }),
  );
}

/**
 * Checks overrides of one entry against the built-in limits: they may be narrowed only, and a default must fit.
 * @throws Problem "invalid" naming every fault
 */
export function checkOverrides(name: EntryName, overrides: Overrides): void {
  const errors: Fault[] = [];
  const entry: Entry = builtin[name];
  for (const [field, given] of Object.entries(overrides)) {
    const own = Object.hasOwn(entry, field) ? entry[field] : undefined;
    const pointer = `/value/${field}`;
    if (!own) {
      errors.push({ pointer, detail: `is not a parameter of ${name}; there are: ${Object.keys(entry).join(", ")}` });
      continue;
    }
    for (const limit of ["minimum", "maximum"] as const) {
      const wanted = given[limit];
      if (wanted == null) continue;
      const { minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY } = own;
      if (own[limit] === undefined || wanted < minimum || wanted > maximum) {
        errors.push({
          pointer: `${pointer}/${limit}`,
          detail: `must lie within the built-in ${minimum} to ${maximum}`,
        });
      }
    }
    for (const value of given.enum ?? []) {
      if (!own.enum?.some((c) => c.value === value)) {
        errors.push({ pointer: `${pointer}/enum`, detail: `${value} is not one of the built-in choices` });
      }
    }
    const effective = applyOverrides({ [field]: own }, { [field]: given })[field] as Parameter;
    if ((effective.minimum ?? -Infinity) > (effective.maximum ?? Infinity)) {
      errors.push({ pointer, detail: "the minimum lies above the maximum" });
    } else if (effective.default !== undefined && !toSchema(effective).safeParse(effective.default).success) {
      errors.push({ pointer: `${pointer}/default`, detail: "the default does not lie within the limits" });
    }
  }
  if (errors.length > 0) throw new Problem("invalid", { detail: "The catalogue entry is not valid", errors });
}

/** Parameters live as long as their catalogue, so each validator is built once and not at every request. */
const schemas = new WeakMap<Parameter, z.ZodType>();

/** The validator of one field's values; its description and default are there for the document's sake. */
export function toSchema(parameter: Parameter): z.ZodType {
  let schema = schemas.get(parameter);
  if (!schema) {
    const { description, default: fallback } = parameter;
    schema = buildSchema(parameter).meta({ description, ...(fallback === undefined ? {} : { default: fallback }) });
    schemas.set(parameter, schema);
  }
  return schema;
}

function buildSchema(parameter: Parameter): z.ZodType {
  switch (parameter.type) {
    case "integer":
    case "number": {
      let schema = parameter.type === "integer" ? z.int() : z.number();
      if (parameter.minimum !== undefined) schema = schema.min(parameter.minimum);
      if (parameter.maximum !== undefined) schema = schema.max(parameter.maximum);
      if (parameter.multipleOf !== undefined) schema = schema.multipleOf(parameter.multipleOf);
      return schema;
    }
    case "string": {
      const values = parameter.enum?.map((c) => c.value);
      if (values) return z.enum(values as [string, ...string[]]);
      return limitText(z.string(), parameter.maxLength ?? 10_000);
    }
    case "boolean":
      return z.boolean();
    case "array":
      return z.array(z.unknown()).max(parameter.maxItems ?? 10_000);
  }
}

/**
 * The catalogue in force, read again when older than a second: a change acts here at once (`forget`) and in other
 * processes within that second, without a message that could be lost.
 */
export function createCatalogueSource(sql: Sql) {
  const maxAgeMs = 900;
  let loading: Promise<Catalogue> | null = null;
  let loadedAt = 0;
  return {
    current(): Promise<Catalogue> {
      if (!loading || performance.now() - loadedAt > maxAgeMs) {
        loadedAt = performance.now();
        const load = sql<{ id: string; overrides: Overrides }[]>`select id, overrides from params`.then((rows) =>
          toCatalogue(Object.fromEntries(rows.map((row) => [row.id, row.overrides]))),
        );
        // A failed read must not be remembered: the next request tries again.
        load.catch(() => {
          if (loading === load) loading = null;
        });
        loading = load;
      }
      return loading;
    },
    forget() {
      loading = null;
    },
  };
}
export type CatalogueSource = ReturnType<typeof createCatalogueSource>;

/** JSON Schemas of what a definition answers and takes, made from its zod validators. */
import { z } from "zod";
import { builtinCatalogue } from "../../params/catalogue.ts";
import type { Field, Resource, Shape } from "../define.ts";
import { type JsonSchema, ref } from "./types.ts";

/** @param io `input` is what callers may send, before defaults and transforms */
export function toJsonSchema(schema: z.ZodType, io: "input" | "output"): JsonSchema {
  const { $schema: _dialect, ...json } = z.toJSONSchema(schema, {
    io,
    unrepresentable: "any",
    override: ({ zodSchema, jsonSchema }) => tidy(zodSchema, jsonSchema as JsonSchema),
  });
  return json;
}

/** What zod says too much or too little for a reader. */
function tidy(zodSchema: z.core.$ZodType, json: JsonSchema): void {
  // The format says it; zod's pattern for it is three lines long.
  if (json.format === "date-time") delete json.pattern;
  if (json.minimum === Number.MIN_SAFE_INTEGER) delete json.minimum;
  if (json.maximum === Number.MAX_SAFE_INTEGER) delete json.maximum;
  // A tuple of one kind is a list of fixed length, which more tools understand.
  const parts = json.prefixItems as JsonSchema[] | undefined;
  if (parts && new Set(parts.map((part) => JSON.stringify(part))).size === 1) {
    delete json.prefixItems;
    Object.assign(json, { items: parts[0], minItems: parts.length, maxItems: parts.length });
  }
  // What is trimmed must hold something else than white space.
  const checks = (zodSchema._zod.def as { checks?: { _zod: { def: { check: string } } }[] }).checks ?? [];
  const isTrimmed = checks.some((check) => check._zod.def.check === "overwrite");
  if (isTrimmed && Number(json.minLength) > 0 && json.pattern === undefined) json.pattern = "\\S";
}

const seenBy = { owner: "Only its owner and admins", admin: "Only admins" } as const;

/** One object as it is answered. What some viewers do not get is not required. */
export function objectSchema(resource: Resource, extra: Record<string, z.ZodType> = {}): JsonSchema {
  const fields = Object.entries(resource.fields);
  const extras = Object.entries(extra).map(([name, schema]) => [name, toJsonSchema(schema, "output")]);
  return {
    type: "object",
    properties: {
      ...Object.fromEntries(fields.map(([name, field]) => [name, fieldSchema(field)])),
      ...Object.fromEntries(extras),
    },
    required: [
      ...fields.filter(([, field]) => !isHidden(field)).map(([name]) => name),
      ...extras.map(([name]) => name as string),
    ],
  };
}

function isHidden(field: Field): boolean {
  return field.see === "owner" || field.see === "admin";
}

function fieldSchema(field: Field): JsonSchema {
  const isRestricted = isHidden(field);
  const schema = toJsonSchema(field.schema, "output");
  const notes = [
    schema.description,
    ...(isRestricted ? [`${seenBy[field.see as "owner" | "admin"]} see it`] : []),
    ...(field.live ? ["Live: it moves without a new version"] : []),
  ].filter(Boolean);
  return {
    ...schema,
    ...(notes.length > 0 ? { description: notes.join(". ") } : {}),
    ...(isRestricted ? { "x-visible-to": field.see } : {}),
    readOnly: true,
  };
}

/** The body of a POST or a PATCH, with the catalogue's built-in limits. */
export function inputSchema(
  shape: Shape,
  required: readonly string[],
  { adminFields = [], needsOneOf }: { adminFields?: readonly string[]; needsOneOf?: readonly string[] } = {},
): JsonSchema {
  const properties = Object.fromEntries(
    Object.entries(shape(builtinCatalogue)).map(([name, schema]) => {
      const json = toJsonSchema(schema, "input");
      if (adminFields.includes(name)) {
        json.description = [json.description, "Only admins write it"].filter(Boolean).join(". ");
        json["x-written-by"] = "admin";
      }
      return [name, json];
    }),
  );
  return {
    type: "object",
    properties,
    ...(required.length > 0 ? { required: [...required] } : {}),
    additionalProperties: false,
    ...(needsOneOf ? { oneOf: needsOneOf.map((name) => ({ required: [name] })) } : {}),
  };
}

/** A merge patch leaves alone what it does not name, so no default applies. */
export function patchSchema(shape: Shape, adminFields?: readonly string[]): JsonSchema {
  const schema = inputSchema(shape, [], { adminFields });
  for (const property of Object.values(schema.properties as Record<string, JsonSchema>)) delete property.default;
  return schema;
}

/** A page of a list. */
export function pageSchema(
  item: JsonSchema,
  { isSearchable, ...extra }: { isSearchable?: boolean; used_bytes?: JsonSchema; quota_bytes?: JsonSchema } = {},
): JsonSchema {
  return {
    type: "object",
    properties: {
      page: { type: "integer", minimum: 1 },
      page_size: { type: "integer", minimum: 1, description: "As asked for; the last page may hold fewer" },
      total: { type: "integer", minimum: 0, description: "All that meet the conditions and that the caller may see" },
      next: { type: "boolean", description: "Whether a further page has rows" },
      list: { type: "array", items: item },
      ...(isSearchable
        ? { total_exact: { const: false, description: "There when `search` found so much that it stopped counting" } }
        : {}),
      ...extra,
    },
    required: ["page", "page_size", "total", "next", "list", ...Object.keys(extra)],
  };
}

/** What is sent to those who watch one object, and to those who watch a list; by the schema's name. */
export function frameSchemas(resource: Resource, object: string): Record<string, JsonSchema> {
  const id = resource.id === "integer" ? { type: "integer" } : { type: "string" };
  const address = { name: { const: resource.name }, id };
  const frame = (type: string, properties: JsonSchema, description: string) => ({
    type: "object",
    description,
    properties: { type: { const: type }, ...address, ...properties },
    required: ["type", "name", "id", ...Object.keys(properties)],
  });
  const version = { type: "integer", description: "Never decreases; rises with every change" };
  const { properties } = objectSchema(resource);
  const update = frame("update", { version, data: { type: "object", properties } }, "The fields that differ");
  return {
    [`${object}Frame`]: {
      oneOf: [
        frame("snapshot", { version, data: ref(object) }, "At once, and again after changes may have been missed"),
        update,
        frame("delete", {}, "The object is gone, or out of the caller's sight; then the socket closes with 1000"),
      ],
    },
    [`${object}ListFrame`]: {
      oneOf: [
        {
          type: "object",
          description: "The page as GET answers it: at once, and again when all else is to be forgotten",
          properties: { type: { const: "snapshot" }, name: { const: resource.name }, data: ref(`${object}Page`) },
          required: ["type", "name", "data"],
        },
        frame(
          "create",
          { version, data: ref(object) },
          "An object that meets the conditions and was not told of: new, changed to meet them, come into sight, or " +
            "from beyond the page and changed",
        ),
        update,
        frame("delete", {}, "An object that was told of is gone, out of sight, or meets the conditions no more"),
      ],
    },
  };
}

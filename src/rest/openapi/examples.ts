/** Examples that follow from the schemas: the first that a schema names, else the simplest value that it allows. */
import type { JsonSchema } from "./types.ts";

const byFormat: Record<string, string> = {
  "date-time": "2026-11-22T08:19:00.123Z",
  email: "artist@example.com",
  uri: "https://example.com/cuckoo.png",
};

/** Fields of these names hold one of these wherever their type allows it; their schemas need not repeat it. */
const byName: Record<string, unknown> = {
  prompt: "a cuckoo on a branch, watercolour",
  negative_prompt: "blurry",
  search: "布穀鳥",
  ip: "192.0.2.7",
  password: "correct horse battery",
  current_password: "correct horse battery",
  user_agent: "Mozilla/5.0",
  total: 1,
  hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
  trigger_words: "cuckoo",
  info: "Cuckoos of one forest",
  image: "https://example.com/api/files/0b9c2f7e6d.png",
  images: "https://example.com/api/files/0b9c2f7e6d.png",
  cover: "https://example.com/api/files/0b9c2f7e6d.png",
  url: "https://example.com/api/files/0b9c2f7e6d.png",
  thumbnail: "https://example.com/api/files/0b9c2f7e6d-small.webp",
  model_path: "0b9c2f7e6d.safetensors",
  progress: 42,
  port: 8188,
};

/**
 * @param resolve finds the schema that a `$ref` names
 * @param name of the property, for a value that reads well
 */
export function exampleOf(schema: JsonSchema, resolve: (ref: string) => JsonSchema, name = ""): unknown {
  const inner = (child: unknown, childName = "") => exampleOf(child as JsonSchema, resolve, childName);
  if (typeof schema.$ref === "string") return inner(resolve(schema.$ref), name);
  if ("const" in schema) return schema.const;
  if (Array.isArray(schema.examples)) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  if (Array.isArray(schema.allOf)) return Object.assign({}, ...schema.allOf.map((part) => inner(part, name)));
  const choices = (schema.type ? undefined : (schema.oneOf ?? schema.anyOf)) as JsonSchema[] | undefined;
  if (choices) return inner(choices.find((choice) => choice.type !== "null") ?? choices[0], name);
  const type = Array.isArray(schema.type) ? schema.type.find((one) => one !== "null") : schema.type;
  if (name in byName && typeof byName[name] === (type === "integer" ? "number" : type)) return byName[name];
  switch (type) {
    case "object":
      return Object.fromEntries(
        Object.entries((schema.properties ?? {}) as JsonSchema).map(([key, child]) => [key, inner(child, key)]),
      );
    case "array":
      if (!schema.items || Object.keys(schema.items).length === 0) return [];
      return Array.from({ length: Number(schema.minItems ?? 1) || 1 }, () => inner(schema.items, name));
    case "integer":
    case "number":
      return smallest(schema);
    case "boolean":
      return false;
    case "null":
      return null;
    default:
      return byFormat[schema.format as string] ?? "text";
  }
}

function smallest({ minimum, exclusiveMinimum, multipleOf = 1 }: JsonSchema): number {
  if (typeof minimum === "number") return minimum;
  if (typeof exclusiveMinimum === "number") return exclusiveMinimum + Number(multipleOf);
  return 1;
}

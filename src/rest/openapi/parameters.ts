/** Query parameters of a list and the headers that requests may carry. */
import type { Filter, Resource } from "../define.ts";
import { defaultPageSize, maxId, maxPage, maxPageSize, maxValues } from "../limits.ts";
import { choicesOf, filtersOf } from "../listview.ts";
import type { JsonSchema, Parameter } from "./types.ts";

export const pageParameters: Parameter[] = [
  {
    name: "page",
    in: "query",
    description: "Pages count from 1; past the end the list is empty",
    schema: { type: "integer", minimum: 1, maximum: maxPage, default: 1 },
  },
  {
    name: "pageSize",
    in: "query",
    description: "Rows of a page",
    schema: { type: "integer", minimum: 1, maximum: maxPageSize, default: defaultPageSize },
  },
];

/** Everything that a list of this resource understands; whatever else is asked is a 400. */
export function listParameters(resource: Resource): Parameter[] {
  const sorts = Object.entries(resource.sorts).map(
    ([name, { direction, see }]) => `\`${name}\` (${direction}${see ? ", for admins" : ""})`,
  );
  return [
    ...pageParameters,
    {
      name: "sort",
      in: "query",
      description: `${sorts.join(", ")}: each in its own direction unless \`order\` says otherwise. Without it rows come by id. Ties are broken by id.`,
      schema: { type: "string", enum: Object.keys(resource.sorts) },
    },
    {
      name: "order",
      in: "query",
      description: "Turns the order, also the plain one by id",
      schema: { type: "string", enum: ["asc", "desc"] },
    },
    ...filtersOf(resource).map(([name, filter]) => filterParameter(name, filter)),
  ];
}

const unions = "Commas unite (`a,b`: a or b); repeating the parameter intersects (`a` and `b`)";

function filterParameter(name: string, filter: Filter): Parameter {
  const { what, value } = describeFilter(name, filter);
  const seen = filter.see ? ` Only ${filter.see === "admin" ? "admins" : "owners and admins"} may ask.` : "";
  return {
    name,
    in: "query",
    description: `${what}. ${unions}; at most ${maxValues} values in all.${seen}`,
    // Exploded: each item is one occurrence of the parameter, and holds a union.
    style: "form",
    explode: true,
    // No example: a reference page would fill it in, and each would be a condition.
    schema: { type: "array", minItems: 1, maxItems: maxValues, items: value },
  };
}

/** One occurrence of the parameter: values of `pattern` with commas between. */
function joined(pattern: string): JsonSchema {
  return { type: "string", pattern: `^(${pattern})(,(${pattern}))*$` };
}

function describeFilter(name: string, filter: Filter): { what: string; value: JsonSchema } {
  switch (filter.kind) {
    case "id":
      return {
        what: `Rows by \`${name}\`; an id that does not exist is a condition that nothing meets`,
        value: joined("[0-9]{1,15}"),
      };
    case "boolean":
      return { what: `Rows by \`${name}\``, value: joined("true|false") };
    case "enum": {
      const choices = choicesOf(filter);
      const words = [...new Set(choices.flatMap(({ value, label }) => [value, label]))];
      const labels = choices.filter(({ value, label }) => value !== label);
      const also = labels.map(({ value, label }) => `\`${label}\` (${value})`).join(", ");
      return {
        what: `Rows by \`${name}\`: ${choices.map(({ value }) => `\`${value}\``).join(", ")}${also ? `; also ${also}` : ""}`,
        value: joined(words.map((word) => word.replaceAll(".", "\\.")).join("|")),
      };
    }
    case "tag":
      return {
        what: "Rows that carry the tag, compared without case (`tag=動物,植物&tag=水彩`: 動物 or 植物, and 水彩)",
        value: joined(textPattern),
      };
    case "search":
      return {
        what: "Rows in which every word occurs, in any script, letter case, width and Traditional or Simplified forms aside (`search=布谷鸟` finds 布穀鳥); a word of one or two Latin letters matches at the start of a word",
        value: joined(textPattern),
      };
    case "text":
      return { what: `Rows whose \`${name}\` is exactly this`, value: joined(textPattern) };
  }
}

/** Something else than white space between two commas, and no NUL. */
const textPattern = "[^,\\u0000]*[^,\\s\\u0000][^,\\u0000]*";

export function idParameter(resource: Resource): Parameter {
  return {
    name: "id",
    in: "path",
    required: true,
    description: `Which ${resource.singular}`,
    schema:
      resource.id === "integer" ? { type: "integer", minimum: 1, maximum: maxId } : { type: "string", minLength: 1 },
  };
}

const etags = '^(\\*|(W/)?"[^"]*"(, *(W/)?"[^"]*")*)$';

export const ifMatch: Parameter = {
  name: "If-Match",
  in: "header",
  description:
    "ETags as answered, or `*`: writes only while nobody else has written since. Progress and counters do not count as writes.",
  schema: { type: "string", pattern: etags },
};

export const ifNoneMatch: Parameter = {
  name: "If-None-Match",
  in: "header",
  description: "ETags as answered: 304 while the object still is as it was. What is no ETag is passed over.",
  schema: { type: "string" },
};

export const idempotencyKey: Parameter = {
  name: "Idempotency-Key",
  in: "header",
  description:
    "The same key, caller, path and body again replays the first answer (`Idempotency-Replayed: true`) and creates nothing. Kept for 24 hours, successes only.",
  schema: { type: "string", pattern: "^[\\x21-\\x7e]{1,255}$" },
};

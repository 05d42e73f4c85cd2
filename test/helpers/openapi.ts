/** Judges answers by an OpenAPI document: an undocumented status, header or field is a fault. */
import Ajv, { type ValidateFunction } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import type { RouterRoute } from "hono/types";
import type { Answer as Described, JsonSchema, Operation } from "../../src/rest/openapi/types.ts";
import type { Answer, Json } from "./app.ts";

/** The document promises no more than it names; a test wants no less: every object is closed. */
function close(schema: Json): Json {
  if (Array.isArray(schema)) return schema.map(close);
  if (typeof schema !== "object" || schema === null) return schema;
  const copy = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, close(value)]));
  if (copy.type === "object" && copy.properties && copy.additionalProperties === undefined) {
    copy.additionalProperties = false;
  }
  return copy;
}

export function createJudge(document: Json) {
  const ajv = new Ajv({ strict: false, allErrors: true, validateSchema: false });
  addFormats(ajv);
  ajv.addFormat("binary", true);
  ajv.addSchema({ $id: "open", components: document.components });
  ajv.addSchema({ $id: "closed", components: { ...document.components, schemas: close(document.components.schemas) } });
  const point = (schema: JsonSchema, base: string): JsonSchema =>
    JSON.parse(JSON.stringify(schema).replaceAll('"#/components', `"${base}#/components`));

  const compiled = new Map<string, ValidateFunction>();
  const faultsOf = (schema: JsonSchema, value: unknown, base: "open" | "closed"): string[] => {
    const key = base + JSON.stringify(schema);
    const check = compiled.get(key) ?? ajv.compile(point(schema, base));
    compiled.set(key, check);
    return check(value)
      ? []
      : (check.errors ?? []).map((e) => `${e.instancePath} ${e.message} ${JSON.stringify(e.params)}`);
  };
  const paths = Object.keys(document.paths).map((path) => ({
    path,
    pattern: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/\{\w+\}/g, "[^/]+")}$`),
  }));
  const find = (method: string, target: string): Operation | undefined => {
    const pathname = target.split("?")[0] ?? "";
    const exact = document.paths[pathname] ? pathname : paths.find(({ pattern }) => pattern.test(pathname))?.path;
    return exact === undefined ? undefined : document.paths[exact][method.toLowerCase()];
  };

  return {
    knows: (method: string, target: string) => find(method, target) !== undefined,

    /** What is wrong with an answer; empty when it is as described. */
    answer(method: string, target: string, { status, headers, body }: Answer): string[] {
      const described: Described | undefined = find(method, target)?.responses[status];
      if (!described) return [`${method} ${target} does not describe ${status}`];
      const type = headers.get("content-type")?.split(";")[0] ?? "";
      const faults: string[] = [];
      for (const name of Object.keys(described.headers ?? {})) {
        // What only this answer has, it always has.
        const { required } = document.components.headers[name] ?? { required: true };
        // A bulk's answer is of no one object.
        const isMeant = ["ETag", "Location"].includes(name) && !(method === "POST" && Array.isArray(body?.list));
        if ((required || isMeant) && !headers.has(name)) faults.push(`no header ${name}`);
      }
      for (const name of ["etag", "location", "retry-after"]) {
        const isNamed = Object.keys(described.headers ?? {}).some((known) => known.toLowerCase() === name);
        if (headers.has(name) && !isNamed) faults.push(`header ${name} is not described`);
      }
      if (!described.content) return body ? [...faults, "a body where none is described"] : faults;
      const media = described.content[type];
      if (!media) return [...faults, `type ${type} is not described`];
      return /json$/.test(type) ? [...faults, ...faultsOf(media.schema, body, "closed")] : faults;
    },

    /** What is wrong with an operation's examples. */
    examples({ parameters, requestBody, responses }: Operation): string[] {
      const contents = [requestBody?.content, ...Object.values(responses).map((answer) => answer.content)];
      const media = contents.flatMap((content) => Object.values(content ?? {}));
      const bodies = media.flatMap(({ schema, example, examples = {} }) => [
        ...(example === undefined ? [] : [{ schema, value: example }]),
        ...Object.values(examples).map((named) => {
          const { $ref, value } = named as { $ref?: string; value?: unknown };
          const key = $ref?.split("/").at(-1);
          return { schema, value: key ? document.components.examples[key].value : value };
        }),
      ]);
      const asked = parameters.flatMap((parameter) =>
        "schema" in parameter && parameter.example !== undefined
          ? [{ schema: parameter.schema, value: parameter.example }]
          : [],
      );
      return [...bodies, ...asked].flatMap(({ schema, value }) => faultsOf(schema, value, "open"));
    },
  };
}

/** `METHOD /path/{id}` of every route that answers one method; the rest is middleware and refusals. */
export function servedRoutes(routes: RouterRoute[]): string[] {
  const served = routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${path.replace(/(.)\/$/, "$1").replaceAll(/:(\w+)/g, "{$1}")}`);
  return [...new Set(served)];
}

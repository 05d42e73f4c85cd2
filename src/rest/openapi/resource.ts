/** The operations of one definition, as the generic handlers serve them. */
import type { ProblemCode } from "../../problems.ts";
import type { Resource } from "../define.ts";
import { maxBulk } from "../limits.ts";
import { describeOperation, header, json, jsonBody, type Outline } from "./operation.ts";
import { idParameter, ifMatch, ifNoneMatch, listParameters } from "./parameters.ts";
import { frameSchemas, inputSchema, objectSchema, pageSchema, patchSchema } from "./schemas.ts";
import { lastEventId, listSocketText, socketNotes, socketText, withEvents } from "./socket.ts";
import { type Described, type JsonSchema, type Operation, ref } from "./types.ts";

const patchTypes = ["application/json", "application/merge-patch+json"];

/** "Model" for `models`: the name of its schemas, and the tail of its operationIds. */
export function typeName(resource: Resource): string {
  const one = resource.name.replace(/s$/, "");
  return one.charAt(0).toUpperCase() + one.slice(1);
}

export function describeResource(resource: Resource): Described {
  const type = typeName(resource);
  const { name, singular, isBulk, create, patch, remove } = resource;
  const path = `/api/${name}`;
  const schemas: Record<string, JsonSchema> = {
    [type]: objectSchema(resource),
    [`${type}Page`]: pageSchema(ref(type), { isSearchable: resource.isSearchable }),
    ...frameSchemas(resource, type),
  };
  const operations: Record<string, Operation> = {};
  const add = (route: string, outline: Omit<Outline, "tag">) => {
    operations[route] = describeOperation({ ...outline, tag: name });
  };
  const reading = resource.readers === "users" ? "required" : "optional";

  add(`GET ${path}`, {
    id: `list${type}s`,
    summary: `List ${name}, or watch the list`,
    description: `What the caller may see, page by page. A parameter that is not listed here is a 400, so that a typing error never passes for "no condition".\n\n${listSocketText(resource)}`,
    token: reading,
    parameters: listParameters(resource),
    answers: {
      200: withEvents(json(ref(`${type}Page`), `A page of ${name}`)),
      // Filters may be long: 200 values of long names go beyond what an HTTP server reads.
      431: { description: "The URL and the headers are above 16 KB; answered before the API, without a body" },
    },
    problems: ["invalid-query"],
    extensions: { "x-websocket": socketNotes(`${type}ListFrame`) },
  });
  add(`GET ${path}/{id}`, {
    id: `get${type}`,
    summary: `Get one ${singular}, or watch it`,
    description: `What does not exist and what the caller may not see answer alike. It takes no query parameters.\n\n${socketText(resource)}`,
    token: reading,
    parameters: [idParameter(resource), ifNoneMatch, lastEventId],
    answers: {
      200: withEvents(json(ref(type), `The ${singular}`, { ETag: header("ETag") })),
      304: {
        description: "It is as it was, and shows neither a live value nor a signed URL",
        headers: { ETag: header("ETag") },
      },
    },
    problems: ["invalid-query", "not-found"],
    extensions: { "x-websocket": socketNotes(`${type}Frame`) },
  });

  if (create) {
    const answered = create.extra ? `${type}Created` : type;
    if (create.extra) schemas[answered] = objectSchema(resource, create.extra);
    schemas[`${type}Create`] = inputSchema(create.shape, create.required, create);
    const isLogin = name === "sessions";
    const problems: ProblemCode[] = ["invalid-query", ...(create.throws ?? [])];
    if (create.by === "admins" || create.adminFields) problems.push("forbidden");
    if (create.isSecret) problems.push("idempotency-key-refused");
    const one = ref(`${type}Create`);
    const several = { type: "array", items: one, minItems: 1, maxItems: maxBulk };
    add(`POST ${path}`, {
      id: `create${type}`,
      summary: isLogin ? "Log in" : `Create a ${singular}`,
      description: resource.about,
      token: isLogin ? "ignored" : create.by === "guests" ? "optional" : "required",
      body: jsonBody(
        isBulk ? { oneOf: [one, several] } : one,
        ["application/json"],
        create.examples && Object.fromEntries(Object.entries(create.examples).map(([key, value]) => [key, { value }])),
      ),
      answers: {
        201: json(
          isBulk ? { oneOf: [ref(answered), ref(`${type}List`)] } : ref(answered),
          isBulk ? `The new ${singular}, or the list of them when the body was an array` : `The new ${singular}`,
          { ETag: header("ETag"), Location: header("Location") },
        ),
      },
      problems,
      isIdempotent: !create.isSecret,
    });
  }
  if (patch) {
    schemas[`${type}Patch`] = patchSchema(patch.shape, patch.adminFields);
    add(`PATCH ${path}/{id}`, {
      id: `patch${type}`,
      summary: `Change a ${singular}`,
      description: "A JSON merge patch (RFC 7396): only what is named changes. Answers the whole object.",
      token: "required",
      parameters: [idParameter(resource), ifMatch],
      body: jsonBody(ref(`${type}Patch`), patchTypes),
      answers: { 200: json(ref(type), "As it is now", { ETag: header("ETag") }) },
      problems: ["invalid-query", "forbidden", "not-found", "precondition-failed", ...(patch.throws ?? [])],
    });
  }
  if (remove) {
    add(`DELETE ${path}/{id}`, {
      id: `delete${type}`,
      summary: name === "sessions" ? "Log out" : `Delete a ${singular}`,
      token: "required",
      parameters: [idParameter(resource), ifMatch],
      answers: { 204: { description: "It is gone" } },
      problems: ["invalid-query", "forbidden", "not-found", "precondition-failed", ...(remove.throws ?? [])],
    });
  }
  if (isBulk) describeBulk(resource, add, schemas);
  return { tag: { name, description: resource.about }, operations, schemas };
}

/** Several objects in one transaction. */
function describeBulk(
  resource: Resource,
  add: (route: string, outline: Omit<Outline, "tag">) => void,
  schemas: Record<string, JsonSchema>,
): void {
  const type = typeName(resource);
  const { name, patch, remove } = resource;
  const ids = {
    name: "id",
    in: "query" as const,
    required: true,
    description: `Ids with commas between, at most ${maxBulk}. One that the caller may not see is a 404 for the whole`,
    schema: { type: "string", pattern: "^[1-9][0-9]{0,9}(,[1-9][0-9]{0,9})*$" },
    example: "1,2,3",
  };
  if (patch) {
    add(`PATCH /api/${name}`, {
      id: `patch${type}s`,
      summary: `Change several ${name} alike`,
      description: "One transaction: all of them or none.",
      token: "required",
      parameters: [ids],
      body: jsonBody(ref(`${type}Patch`), patchTypes),
      answers: { 200: json(ref(`${type}List`), "As they are now") },
      problems: ["invalid-query", "precondition-refused", "forbidden", "not-found", ...(patch.throws ?? [])],
    });
  }
  schemas[`${type}List`] = {
    type: "object",
    properties: { list: { type: "array", items: ref(type) } },
    required: ["list"],
  };
  if (remove) {
    add(`DELETE /api/${name}`, {
      id: `delete${type}s`,
      summary: `Delete several ${name}`,
      description: "One transaction: all of them or none.",
      token: "required",
      parameters: [ids],
      answers: { 204: { description: "They are gone" } },
      problems: ["invalid-query", "precondition-refused", "forbidden", "not-found", ...(remove.throws ?? [])],
    });
  }
}

/** The whole document: what the parts of the API say of themselves, the shared components, examples filled in. */
import info from "../../../package.json" with { type: "json" };
import { type ProblemCode, problemTable } from "../../problems.ts";
import { exampleOf } from "./examples.ts";
import type { Described, JsonSchema, MediaType, Operation } from "./types.ts";

export interface OpenApiDocument {
  openapi: string;
  info: { title: string; version: string; description: string; license: { name: string; identifier: string } };
  servers: { url: string }[];
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: Record<string, Record<string, JsonSchema>>;
}

const description = `The open backend for AI drawing services: data sets, training, inference and a pool of GPU servers.

- **Token**: log in with \`POST /api/sessions\`; send what it answers as \`Authorization: Bearer <token>\` or \`Token: <token>\`. A wrong, expired or revoked token is a 401 on every method, never a silent guest.
- **Problems** are RFC 9457 \`application/problem+json\` with a stable \`code\`. They are judged in this order: 405, foreign Origin 403, 401, 413 and 415, 400, 404, 403, 422, 412, 409.
- **Lists** answer \`{page, page_size, total, next, list}\`. In a filter, commas unite and repeated parameters intersect: \`?tag=動物,植物&tag=水彩\` is (動物 or 植物) and 水彩.
- **Times** are RFC 3339 in UTC, fields snake_case. HEAD answers like GET without a body; a method that a path does not have is a 405 with \`Allow\`.
- **Watching**: every object's own path is also a WebSocket; see any "Get one …" and its \`x-websocket\`.
- An \`Origin\` header that is neither this host nor among the allowed ones is a 403 anywhere below \`/api\`.`;

/** @param publicUrl only its path counts: the document is read where the API is */
export function buildDocument(parts: Described[], publicUrl: string): OpenApiDocument {
  const document: OpenApiDocument = {
    openapi: "3.1.1",
    info: {
      title: "Atelier",
      version: info.version,
      description,
      license: { name: "Apache License 2.0", identifier: info.license },
    },
    servers: [{ url: new URL(publicUrl).pathname.replace(/\/$/, "") || "/" }],
    tags: parts.map((part) => part.tag),
    paths: {},
    components: {
      schemas: Object.assign({ Problem: problemSchema }, ...parts.map((part) => part.schemas)),
      examples: problemExamples(),
      headers,
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "`Authorization: Bearer <token>`" },
        token: { type: "apiKey", in: "header", name: "Token", description: "The same token in a header of its own" },
      },
    },
  };
  for (const { operations } of parts) {
    for (const [route, operation] of Object.entries(operations)) {
      const [method = "", path = ""] = route.split(" ");
      document.paths[path] = { ...document.paths[path], [method.toLowerCase()]: operation };
    }
  }
  fillExamples(document);
  return document;
}

const problemSchema: JsonSchema = {
  type: "object",
  description: "RFC 9457, Problem Details for HTTP APIs",
  properties: {
    type: { type: "string", format: "uri", description: "`urn:atelier:problem:` and the code" },
    title: { type: "string" },
    status: { type: "integer", minimum: 400, maximum: 599 },
    detail: { type: "string", description: "For people; its wording may change" },
    code: { type: "string", enum: Object.keys(problemTable), description: "For programs; it stays" },
    errors: {
      type: "array",
      description: "Every fault of the input at once",
      items: {
        type: "object",
        properties: {
          pointer: { type: "string", description: "JSON pointer into the body" },
          parameter: { type: "string", description: "Name of a query parameter" },
          detail: { type: "string" },
        },
        required: ["detail"],
      },
    },
  },
  required: ["type", "title", "status", "detail", "code"],
};

function problemExamples(): Record<string, JsonSchema> {
  const errors: Partial<Record<ProblemCode, unknown>> = {
    invalid: [{ pointer: "/name", detail: "is required" }],
    "invalid-query": [{ parameter: "pageSize", detail: "must be a whole number from 1 to 200" }],
  };
  return Object.fromEntries(
    Object.entries(problemTable).map(([code, [status, title]]) => {
      const faults = errors[code as ProblemCode];
      const value = { type: `urn:atelier:problem:${code}`, title, status, detail: title, code };
      return [code, { summary: title, value: faults ? { ...value, errors: faults } : value }];
    }),
  );
}

const text = { type: "string" };
const headers: Record<string, JsonSchema> = {
  "X-Request-Id": { description: "To be named when something is reported", required: true, schema: text },
  ETag: { description: "Opaque, of this object as this caller sees it; none where several are answered", schema: text },
  Location: { description: "Path of the new object; none where several were made", schema: text },
  "Retry-After": { description: "Seconds", schema: { type: "string", pattern: "^[0-9]+$" } },
  "Idempotency-Replayed": { description: "`true` when this is the answer of an earlier request", schema: text },
  RateLimit: { description: "What is left (draft-ietf-httpapi-ratelimit-headers)", schema: text },
  "RateLimit-Policy": { description: "What there is in all", schema: text },
};

/** Every JSON body gets an example from its schema, unless it has some. */
function fillExamples(document: OpenApiDocument): void {
  const resolve = (ref: string): JsonSchema => {
    const found = document.components.schemas?.[ref.replace("#/components/schemas/", "")];
    if (!found) throw new Error(`the document has no ${ref}`);
    return found;
  };
  for (const operation of Object.values(document.paths).flatMap((path) => Object.values(path))) {
    const contents = [operation.requestBody?.content, ...Object.values(operation.responses).map((r) => r.content)];
    for (const [type, media] of contents.flatMap((content) => Object.entries(content ?? {}))) {
      if (/json$/.test(type)) addExample(media, resolve);
    }
  }
}

function addExample(media: MediaType, resolve: (ref: string) => JsonSchema): void {
  if (media.example === undefined && !media.examples) media.example = exampleOf(media.schema, resolve);
}

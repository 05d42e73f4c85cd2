/** One operation: what every operation has in common is added here, so that nobody can forget it. */
import { type ProblemCode, problemTable } from "../../problems.ts";
import { maxJsonBytes } from "../body.ts";
import { idempotencyKey } from "./parameters.ts";
import { promises } from "./promises.ts";
import { type Answer, type JsonSchema, type Operation, type Parameter, ref } from "./types.ts";

export interface Outline {
  id: string;
  tag: string;
  summary: string;
  description?: string;
  /** Whether a token is needed, makes a difference, or is not looked at. */
  token: "required" | "optional" | "ignored";
  parameters?: Parameter[];
  body?: Operation["requestBody"];
  /** The good answers, by status. */
  answers: Record<string, Answer>;
  /** Beside those that follow from the rest. */
  problems?: readonly ProblemCode[];
  /** POSTs that take a key. */
  isIdempotent?: boolean;
  /** Outside /api nothing looks at the origin, and what needs no database says so itself. */
  isOutside?: boolean;
  extensions?: Record<`x-${string}`, unknown>;
}

const security: Record<Outline["token"], Operation["security"]> = {
  required: [{ bearer: [] }, { token: [] }],
  optional: [{ bearer: [] }, { token: [] }, {}],
  ignored: [],
};

export function describeOperation(outline: Outline): Operation {
  const takesKey = Boolean(outline.isIdempotent) && promises.idempotency;
  const codes = new Set<ProblemCode>(outline.problems);
  if (outline.token !== "ignored") codes.add("token-invalid");
  if (outline.token === "required") codes.add("token-required");
  if (outline.body) for (const code of ["too-large", "unsupported-media-type", "invalid"] as const) codes.add(code);
  if (outline.body?.content["application/json"]) codes.add("malformed-json");
  if (takesKey) codes.add("idempotency-key-invalid").add("idempotency-key-reused").add("in-progress");
  if (promises.rateLimits) codes.add("too-many-requests");
  if (!outline.isOutside) codes.add("origin-forbidden").add("database-unavailable");
  const common = {
    "X-Request-Id": header("X-Request-Id"),
    ...(promises.rateLimits ? { RateLimit: header("RateLimit"), "RateLimit-Policy": header("RateLimit-Policy") } : {}),
  };
  const good = Object.entries(outline.answers).map(([status, answer]) => [
    status,
    {
      ...answer,
      headers: {
        ...(status === "431" ? {} : common),
        ...answer.headers,
        ...(takesKey && status.startsWith("2") ? { "Idempotency-Replayed": header("Idempotency-Replayed") } : {}),
      },
    },
  ]);
  return {
    operationId: outline.id,
    summary: outline.summary,
    ...(outline.description ? { description: outline.description } : {}),
    tags: [outline.tag],
    security: security[outline.token],
    parameters: [...(outline.parameters ?? []), ...(takesKey ? [idempotencyKey] : [])],
    ...(outline.body ? { requestBody: outline.body } : {}),
    responses: { ...Object.fromEntries(good), ...problemAnswers([...codes], common) },
    ...outline.extensions,
  };
}

/** The problems of one operation, one answer for each status. */
function problemAnswers(codes: ProblemCode[], common: Record<string, unknown>): Record<string, Answer> {
  const byStatus = Map.groupBy(codes, (code) => problemTable[code][0]);
  const answers = [...byStatus].map(([status, list]): [string, Answer] => {
    const isLater = status === 429 || status === 503 || list.includes("in-progress");
    return [
      String(status),
      {
        description: list.map((code) => `\`${code}\`: ${problemTable[code][1]}`).join(". "),
        headers: { ...common, ...(isLater ? { "Retry-After": header("Retry-After") } : {}) },
        content: {
          "application/problem+json": {
            schema: {
              allOf: [ref("Problem"), { properties: { status: { const: status }, code: { enum: list } } }],
            },
            examples: Object.fromEntries(list.map((code) => [code, { $ref: `#/components/examples/${code}` }])),
          },
        },
      },
    ];
  });
  return Object.fromEntries(answers);
}

export const header = (name: string) => ({ $ref: `#/components/headers/${name}` });

export function json(schema: JsonSchema, description: string, headers: Record<string, unknown> = {}): Answer {
  return { description, headers, content: { "application/json": { schema } } };
}

export function jsonBody(
  schema: JsonSchema,
  types: string[] = ["application/json"],
  examples?: Record<string, unknown>,
): Operation["requestBody"] {
  return {
    required: true,
    description: `At most ${maxJsonBytes / 1024 / 1024} MB. Unknown and read-only fields are refused by name.`,
    content: Object.fromEntries(types.map((type) => [type, { schema, ...(examples ? { examples } : {}) }])),
  };
}

/** What the routes that are no resources say of themselves in the OpenAPI document. */
import { describeOperation, header, json, jsonBody } from "../rest/openapi/operation.ts";
import { ifMatch, ifNoneMatch } from "../rest/openapi/parameters.ts";
import { objectSchema, patchSchema } from "../rest/openapi/schemas.ts";
import { type Described, ref } from "../rest/openapi/types.ts";
import { account } from "./account.ts";
import { describeFiles } from "./described-files.ts";
import { describeUploads } from "./described-uploads.ts";
import { describePool, describeWebhooks } from "./described-work.ts";

export function describeRoutes(): Described[] {
  return [describeAccount(), describeFiles(), describeUploads(), describePool(), describeWebhooks(), describeSystem()];
}

function describeAccount(): Described {
  const tag = "account";
  return {
    tag: { name: tag, description: "The caller." },
    schemas: { Account: objectSchema(account), AccountPatch: patchSchema(account.patch.shape) },
    operations: {
      "GET /api/account": describeOperation({
        id: "getAccount",
        tag,
        summary: "Who am I",
        token: "required",
        parameters: [ifNoneMatch],
        answers: {
          200: json(ref("Account"), "The caller", { ETag: header("ETag") }),
          304: { description: "It is as it was", headers: { ETag: header("ETag") } },
        },
        problems: ["invalid-query"],
      }),
      "PATCH /api/account": describeOperation({
        id: "patchAccount",
        tag,
        summary: "Change one's own name, email or password",
        description: "`email` and `password` need `current_password`. A new password ends the caller's other sessions.",
        token: "required",
        parameters: [ifMatch],
        body: jsonBody(ref("AccountPatch"), ["application/json", "application/merge-patch+json"]),
        answers: { 200: json(ref("Account"), "As it is now", { ETag: header("ETag") }) },
        problems: ["invalid-query", "precondition-failed", ...account.patch.throws],
      }),
    },
  };
}

function describeSystem(): Described {
  const tag = "system";
  const status = (value: string) => ({
    type: "object",
    properties: { status: { const: value } },
    required: ["status"],
  });
  return {
    tag: { name: tag, description: "For operators and tools." },
    schemas: {},
    operations: {
      "GET /healthz": describeOperation({
        id: "getHealth",
        tag,
        summary: "Whether the process lives",
        token: "ignored",
        answers: { 200: json(status("ok"), "It does") },
        isOutside: true,
      }),
      "GET /readyz": describeOperation({
        id: "getReadiness",
        tag,
        summary: "Whether it can work: the database answers and is migrated",
        token: "ignored",
        answers: { 200: json(status("ready"), "It can") },
        problems: ["database-unavailable"],
        isOutside: true,
      }),
      "GET /api/openapi.json": describeOperation({
        id: "getDocument",
        tag,
        summary: "This document",
        token: "ignored",
        parameters: [ifNoneMatch],
        answers: {
          200: json({ type: "object" }, "OpenAPI 3.1", { ETag: header("ETag") }),
          304: { description: "It is as it was", headers: { ETag: header("ETag") } },
        },
      }),
    },
  };
}

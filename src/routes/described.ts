/** What the routes that are no resources say of themselves in the OpenAPI document. */
import { z } from "zod";
import { describeOperation, header, json, jsonBody } from "../rest/openapi/operation.ts";
import { ifMatch, ifNoneMatch, pageParameters } from "../rest/openapi/parameters.ts";
import { objectSchema, pageSchema, patchSchema, toJsonSchema } from "../rest/openapi/schemas.ts";
import { type Answer, type Described, type JsonSchema, type Parameter, ref } from "../rest/openapi/types.ts";
import { uploadLimits } from "../storage/upload.ts";
import { account } from "./account.ts";
import { describeWebhooks } from "./described-work.ts";

/** A stored file as `POST /api/files` and the list answer it. */
export const storedFile = z.object({
  key: z.string().meta({ examples: ["0b9c2f7e6d.png"] }),
  url: z.url().meta({
    description: "Signed where it must be: an `<img>` can load it for ten minutes",
    examples: ["https://example.com/api/files/0b9c2f7e6d.png?expires=1795334400&signature=c2lnbmF0dXJl"],
  }),
  hash: z.string().meta({ description: "SHA-256 of the bytes that GET serves, in hexadecimal" }),
  size: z.int().meta({ description: "Bytes" }),
  content_type: z.string().meta({ examples: ["image/png"] }),
  width: z.int().nullable(),
  height: z.int().nullable(),
  created_at: z.iso.datetime(),
});

export function describeRoutes(): Described[] {
  return [describeAccount(), describeFiles(), describeWebhooks(), describeSystem()];
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

const binary: JsonSchema = { type: "string", format: "binary" };
const range: Parameter = {
  name: "Range",
  in: "header",
  description: "One range of bytes; several, or another unit, are answered with the whole",
  schema: { type: "string" },
  example: "bytes=0-1023",
};

/** The bytes, a part of them, nothing new, or where the store has them. */
function fileAnswers(content: Answer["content"]): Record<string, Answer> {
  const type = { ETag: header("ETag") };
  return {
    200: { description: "The bytes", headers: type, content },
    206: { description: "The range that was asked for", headers: type, content },
    302: { description: "The object store's own short-lived URL (S3)", headers: { Location: header("Location") } },
    304: { description: "It is as it was", headers: type },
    416: { description: "The range lies outside the file" },
  };
}

function describeFiles(): Described {
  const tag = "files";
  const key: Parameter = {
    name: "key",
    in: "path",
    required: true,
    description: "Which file",
    schema: { type: "string", minLength: 1 },
  };
  const signature: Parameter[] = [
    { name: "expires", in: "query", description: "As a shown URL has it", schema: { type: "string" } },
    { name: "signature", in: "query", description: "As a shown URL has it", schema: { type: "string" } },
  ];
  const pictures = ["image/png", "image/jpeg", "image/webp", "image/avif"];
  const model = "application/octet-stream";
  const megabytes = (bytes: number) => `${bytes / 1_000_000} MB`;
  return {
    tag: { name: tag, description: "Uploads: pictures and model files. What nothing refers to goes after a while." },
    schemas: {
      File: toJsonSchema(storedFile, "output"),
      FilePage: pageSchema(ref("File"), { used_bytes: { type: "integer", description: "Of all one's files" } }),
    },
    operations: {
      "GET /api/files": describeOperation({
        id: "listFiles",
        tag,
        summary: "List one's own files",
        token: "required",
        parameters: pageParameters,
        answers: { 200: json(ref("FilePage"), "A page of files, oldest first") },
        problems: ["invalid-query"],
      }),
      "POST /api/files": describeOperation({
        id: "uploadFile",
        tag,
        summary: "Upload a picture or a model file",
        description: `JPEG, PNG, WebP or AVIF up to ${megabytes(uploadLimits.picture)}, safetensors up to ${megabytes(uploadLimits.model)}; judged by the bytes, whatever type is declared.`,
        token: "required",
        body: {
          required: true,
          description: "A multipart part named `file`, or the bytes themselves.",
          content: {
            "multipart/form-data": {
              schema: { type: "object", properties: { file: binary }, required: ["file"], additionalProperties: false },
            },
            ...Object.fromEntries([...pictures, model].map((type) => [type, { schema: binary }])),
          },
        },
        answers: { 201: json(ref("File"), "The stored file", { Location: header("Location") }) },
        problems: ["storage-unavailable"],
        isIdempotent: true,
      }),
      "GET /api/files/{key}": describeOperation({
        id: "getFile",
        tag,
        summary: "Load a file",
        description: "For its owner, for everyone when something public shows it, and for whoever has a signed URL.",
        token: "optional",
        parameters: [key, ...signature, range, ifNoneMatch],
        answers: fileAnswers(Object.fromEntries([...pictures, model].map((type) => [type, { schema: binary }]))),
        problems: ["not-found", "storage-unavailable"],
      }),
      "DELETE /api/files/{key}": describeOperation({
        id: "deleteFile",
        tag,
        summary: "Delete a file that nothing uses",
        token: "required",
        parameters: [key],
        answers: { 204: { description: "It is gone" } },
        problems: ["forbidden", "not-found", "in-use", "storage-unavailable"],
      }),
      "GET /api/models/{id}/file": describeOperation({
        id: "getModelFile",
        tag: "models",
        summary: "Download a model's file",
        token: "optional",
        parameters: [
          {
            name: "id",
            in: "path",
            required: true,
            description: "Which model",
            schema: { type: "integer", minimum: 1 },
          },
          range,
          ifNoneMatch,
        ],
        answers: fileAnswers({ [model]: { schema: binary } }),
        problems: ["not-found", "storage-unavailable"],
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

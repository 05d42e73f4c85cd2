/** What the routes of uploads in parts say of themselves in the OpenAPI document. */
import { z } from "zod";
import { describeOperation, header, json } from "../rest/openapi/operation.ts";
import { toJsonSchema } from "../rest/openapi/schemas.ts";
import { type Described, type JsonSchema, type Parameter, ref } from "../rest/openapi/types.ts";
import { uploadLimits } from "../storage/upload.ts";

const upload = z.object({
  key: z.string().meta({ examples: ["0b9c2f7e6d.upload"] }),
  size: z.int().meta({ description: "Bytes in all" }),
  received: z.int().meta({ description: "Bytes so far: where the next part begins" }),
  file: z.string().nullable().meta({ description: "What it became, once completed" }),
  complete: z.string().meta({ examples: ["/api/files/0b9c2f7e6d.upload/complete"] }),
  expires_at: z.iso.datetime(),
});

const count = (name: string, description: string): Parameter => ({
  name,
  in: "header",
  required: true,
  description,
  schema: { type: "integer", minimum: 0 },
});
const version: Parameter = {
  name: "Tus-Resumable",
  in: "header",
  required: true,
  description: "The protocol's version",
  schema: { const: "1.0.0" },
};
const key: Parameter = {
  name: "key",
  in: "path",
  required: true,
  description: "Which upload",
  schema: { type: "string", minLength: 1 },
};
const plain = (description: string, schema: JsonSchema = { type: "string" }) => ({ description, schema });
const progress = {
  "Upload-Offset": plain("Bytes so far", { type: "string", pattern: "^[0-9]+$" }),
  "Upload-Length": plain("Bytes in all", { type: "string", pattern: "^[0-9]+$" }),
  "Upload-Expires": plain("Until when it must be completed"),
};

export function describeUploads(): Described {
  const tag = "uploads";
  return {
    tag: {
      name: tag,
      description:
        "Large files in parts, by the tus protocol 1.0.0 (creation, termination, expiration): any tus client can send them and go on after a broken connection. `POST /api/files/{key}/complete` then makes the file.",
    },
    schemas: { Upload: toJsonSchema(upload, "output") },
    operations: {
      "OPTIONS /api/uploads": describeOperation({
        id: "getUploadOptions",
        tag,
        summary: "What of the protocol is spoken here",
        token: "optional",
        answers: {
          204: {
            description: "In headers",
            headers: {
              "Tus-Version": plain("Versions"),
              "Tus-Extension": plain("Extensions"),
              "Tus-Max-Size": plain(`${uploadLimits.model}`),
            },
          },
        },
      }),
      "POST /api/uploads": describeOperation({
        id: "beginUpload",
        tag,
        summary: "Begin an upload in parts",
        description: "`Upload-Metadata` is not needed: a file is judged by its bytes.",
        token: "required",
        parameters: [version, count("Upload-Length", "Bytes in all")],
        answers: {
          201: json(ref("Upload"), "Send the parts to its Location", { ...progress, Location: header("Location") }),
        },
        problems: ["invalid-query", "precondition-failed", "too-large", "quota-exceeded", "invalid"],
        isIdempotent: true,
      }),
      "GET /api/uploads/{key}": describeOperation({
        id: "getUpload",
        tag,
        summary: "How far an upload is",
        token: "required",
        parameters: [key],
        answers: { 200: json(ref("Upload"), "The upload", progress) },
        problems: ["invalid-query", "not-found", "precondition-failed"],
      }),
      "PATCH /api/uploads/{key}": describeOperation({
        id: "sendPart",
        tag,
        summary: "Send the next part",
        description: "What arrived of a broken request counts: ask how far the upload is, and go on from there.",
        token: "required",
        parameters: [version, key, count("Upload-Offset", "Where the part begins")],
        body: {
          required: true,
          description: "As much as one likes",
          content: { "application/offset+octet-stream": { schema: { type: "string", format: "binary" } } },
        },
        answers: { 204: { description: "It is here", headers: progress } },
        problems: ["invalid-query", "not-found", "precondition-failed", "upload-offset", "storage-unavailable"],
      }),
      "DELETE /api/uploads/{key}": describeOperation({
        id: "cancelUpload",
        tag,
        summary: "Give an upload up",
        token: "required",
        parameters: [version, key],
        answers: { 204: { description: "It is gone" } },
        problems: ["invalid-query", "not-found", "precondition-failed", "storage-unavailable"],
      }),
    },
  };
}

/** What the routes of stored files say of themselves in the OpenAPI document. */
import { z } from "zod";
import type { ProblemCode } from "../problems.ts";
import { describeOperation, header, json } from "../rest/openapi/operation.ts";
import { ifNoneMatch, pageParameters } from "../rest/openapi/parameters.ts";
import { pageSchema, toJsonSchema } from "../rest/openapi/schemas.ts";
import { type Answer, type Described, type JsonSchema, type Parameter, ref } from "../rest/openapi/types.ts";
import { uploadLimits } from "../storage/upload.ts";
import { collected } from "./dataset-files.ts";
import { directUpload } from "./direct-uploads.ts";
import { lineage } from "./lineage.ts";

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
  thumbnail: z.url().nullable().meta({
    description:
      "A WebP of at most 512 pixels; of any picture whose URL is shown by putting `.512.webp` behind its key",
  }),
  thumbnail_small: z.url().nullable().meta({ description: "Likewise of 256 pixels, `.256.webp`" }),
  thumbhash: z.string().nullable().meta({ description: "Placeholder, https://evanw.github.io/thumbhash/, in base64" }),
  metadata: z
    .record(z.string(), z.string())
    .meta({ description: "Of a model file: what its maker wrote into it, as far as it is short; unverified" }),
  created_at: z.iso.datetime(),
});

/** What `POST /api/files` answers to JSON. */
export const begunUpload = z.object({
  key: z.string().meta({ examples: ["0b9c2f7e6d.upload"] }),
  upload: z.object({
    method: z.literal("PUT"),
    url: z.url().meta({ description: "Takes exactly the bytes that were declared, for an hour" }),
    headers: z.record(z.string(), z.string()).meta({ examples: [{ "Content-Type": "image/png" }] }),
  }),
  complete: z.string().meta({ examples: ["/api/files/0b9c2f7e6d.upload/complete"] }),
  expires_at: z.iso.datetime(),
});

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

export function describeFiles(): Described {
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
      CollectedFiles: toJsonSchema(collected, "output"),
      Lineage: toJsonSchema(lineage, "output"),
      DirectUploadCreate: toJsonSchema(z.strictObject(directUpload), "input"),
      DirectUpload: toJsonSchema(begunUpload, "output"),
      FilePage: pageSchema(ref("File"), {
        used_bytes: { type: "integer", description: "Of all one's files" },
        quota_bytes: { type: ["integer", "null"], description: "What they may take; null: there is no limit" },
      }),
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
        description: `JPEG, PNG, WebP or AVIF up to ${megabytes(uploadLimits.picture)}, safetensors up to ${megabytes(uploadLimits.model)}; judged by the bytes, whatever type is declared. JSON instead of a file asks for a URL to send it to the object store directly (S3 only); large model files can also be sent in parts, see /api/uploads.`,
        token: "required",
        body: {
          required: true,
          description: "A multipart part named `file`, the bytes themselves, or what will be sent directly.",
          content: {
            "multipart/form-data": {
              schema: { type: "object", properties: { file: binary }, required: ["file"], additionalProperties: false },
            },
            ...Object.fromEntries([...pictures, model].map((type) => [type, { schema: binary }])),
            "application/json": { schema: ref("DirectUploadCreate") },
          },
        },
        answers: {
          201: json({ oneOf: [ref("File"), ref("DirectUpload")] }, "The stored file, or where to send it", {
            Location: header("Location"),
          }),
        },
        problems: ["invalid-query", "quota-exceeded", "storage-unavailable"],
        isIdempotent: true,
      }),
      "POST /api/files/{key}/complete": describeOperation({
        id: "completeUpload",
        tag,
        summary: "Check and keep what was sent directly or in parts",
        description: "Until then nothing can refer to it. May be repeated.",
        token: "required",
        parameters: [key],
        answers: {
          200: json(ref("File"), "It was kept before", { Location: header("Location") }),
          201: json(ref("File"), "The stored file", { Location: header("Location") }),
        },
        problems: [
          ...["invalid-query", "not-found", "upload-incomplete", "too-large", "quota-exceeded", "invalid"],
          ...["unsupported-media-type", "storage-unavailable"],
        ] as ProblemCode[],
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
        parameters: [key, ...signature],
        answers: { 204: { description: "It is gone" } },
        problems: ["invalid-query", "forbidden", "not-found", "in-use", "storage-unavailable"],
      }),
      "POST /api/datasets/{id}/files": describeOperation({
        id: "addDatasetFiles",
        tag: "datasets",
        summary: "Add a folder or a ZIP of pictures to a data set",
        description:
          "A form with any number of parts named `file` (pictures, and ZIPs of them), or a ZIP as the body. A text file beside a picture (`cat.txt` beside `cat.png`) becomes its caption. What cannot be used is told of in the report and does not stop the others.",
        token: "required",
        parameters: [
          {
            name: "id",
            in: "path",
            required: true,
            description: "Which data set",
            schema: { type: "integer", minimum: 1 },
          },
        ],
        body: {
          required: true,
          description: `At most ${megabytes(uploadLimits.model)}, each picture at most ${megabytes(uploadLimits.picture)}.`,
          content: {
            "multipart/form-data": {
              schema: {
                type: "object",
                properties: { file: { type: "array", items: binary } },
                required: ["file"],
                additionalProperties: false,
              },
            },
            "application/zip": { schema: binary },
          },
        },
        answers: { 200: json(ref("CollectedFiles"), "What became of each file") },
        problems: ["invalid-query", "forbidden", "not-found", "conflict", "quota-exceeded", "storage-unavailable"],
        isIdempotent: true,
      }),
      "GET /api/images/{id}/lineage": describeOperation({
        id: "getLineage",
        tag: "images",
        summary: "Where a picture comes from",
        description:
          "The picture, its parameters, the model, the training that made the model's file, the data set, and the exact pictures of that training. What the viewer may not see is null.",
        token: "optional",
        parameters: [
          {
            name: "id",
            in: "path",
            required: true,
            description: "Which image",
            schema: { type: "integer", minimum: 1 },
          },
        ],
        answers: { 200: json(ref("Lineage"), "Its lineage") },
        problems: ["invalid-query", "not-found"],
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
        problems: ["invalid-query", "not-found", "storage-unavailable"],
      }),
    },
  };
}

/**
 * Takes one uploaded file out of a request, multipart or raw, to a temporary file: streamed, limited, judged by its
 * first bytes. Multipart through @fastify/busboy, since `request.formData()` holds the whole body in memory.
 *
 * How to refuse a body that is still on its way, measured on Bun 1.4.5 with 300 MB and 3 GB bodies (curl with and
 * without `Expect: 100-continue`, multipart, raw and chunked; Python's http.client, which writes all before it reads;
 * the fetch of Bun and Node): answer at once and stop reading. Bun then takes in and drops the rest by itself, in
 * constant memory, and every client got its 413. With `Connection: close` on the answer Bun closes the socket under
 * the client's writing, and http.client and Bun's fetch got EPIPE in place of the answer: so never set it here.
 * Draining first only makes the caller wait. `Bun.serve` needs `maxRequestBodySize` above our limits, otherwise it
 * answers a bare 413 of its own.
 */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { invalid, isProblem, Problem } from "../problems.ts";
import { describeBytes, judgeBytes, judgedBytes } from "./magic.ts";
import { modelType } from "./models.ts";
import { findFilePart } from "./multipart.ts";
import { readFirst } from "./pictures.ts";
import { onDisk, type SpooledFile, spool, tooLarge } from "./spool.ts";

export type UploadKind = "picture" | "model";

export interface Upload extends SpooledFile {
  /** What the first bytes say; it still has to be decoded (`readPicture`, `readSafetensorsHeader`). */
  kind: UploadKind;
  /** As the client named it, shortened and without control characters: to show, never to build a path from. */
  fileName: string | null;
  /** Removes the temporary file; may run twice. */
  dispose(): Promise<void>;
}

export interface UploadLimits {
  picture: number;
  model: number;
}

/** In bytes. */
export const uploadLimits: UploadLimits = { picture: 50_000_000, model: 8_000_000_000 };

/** What multipart may add to the file: boundaries and part headers. */
const envelopeBytes = 64 * 1024;

/**
 * Receives the file of a multipart part named `file`, or the raw body. Nothing is left behind when it throws, nor when
 * the client goes away.
 *
 * @param directory for temporary files, made when missing; best on the disk store's own file system
 * @param allowance bytes that this sender may still store; beyond them `refuse` makes the problem
 * @throws Problem "too-large" as soon as Content-Length or the bytes so far tell; "unsupported-media-type" for what is
 * neither a picture nor safetensors; "invalid" for a missing, empty or second file and a broken or cut-off body
 */
export async function receiveUpload(
  request: Request,
  {
    directory,
    limits = uploadLimits,
    allowance = Number.POSITIVE_INFINITY,
    refuse = () => tooLarge(allowance),
  }: { directory: string; limits?: UploadLimits; allowance?: number; refuse?: () => Problem },
): Promise<Upload> {
  const contentType = request.headers.get("content-type") ?? "";
  const isMultipart = /^multipart\/form-data\s*(;|$)/i.test(contentType);
  const declared = declaredBytes(request) - (isMultipart ? envelopeBytes : 0);
  const largest = Math.max(limits.picture, limits.model);
  if (declared > largest) throw tooLarge(largest);
  if (!request.body) throw empty();
  await onDisk(() => mkdir(directory, { recursive: true }));

  const path = join(directory, randomUUID());
  const dispose = () => rm(path, { force: true });
  const take = async (body: AsyncIterable<Uint8Array>, fileName: string | null): Promise<Upload> => {
    const { first, whole } = await peek(body, judgedBytes);
    const kind = judgeKind(first, declared, limits);
    const refuseAt = (size: number) => (size > limits[kind] ? tooLarge(limits[kind]) : refuse());
    const largest = Math.min(limits[kind], allowance);
    if (declared > largest) throw refuseAt(declared);
    const file = await spool(whole(), path, largest).catch((error) => {
      throw isProblem(error, "too-large") && allowance < limits[kind] ? refuse() : error;
    });
    return { ...file, kind, fileName, dispose };
  };
  const body = complete(request.body);
  try {
    return isMultipart ? await findFilePart(body, contentType, take) : await take(body, null);
  } catch (error) {
    await dispose();
    throw error;
  }
}

/**
 * What a whole file on disk is, by its first bytes.
 *
 * @param declared as its sender said, null when they did not
 * @throws Problem "unsupported-media-type", "too-large"
 */
export async function judgeFile(path: string, size: number, declared: string | null): Promise<UploadKind> {
  const first = await readFirst(path);
  const kind = judgeKind(first, size, uploadLimits);
  if (size > uploadLimits[kind]) throw tooLarge(uploadLimits[kind]);
  const format = judgeBytes(first);
  if (declared !== null && declared !== (format === "safetensors" ? modelType : `image/${format}`)) {
    throw new Problem("unsupported-media-type", { detail: `It was to be ${declared}; this is something else.` });
  }
  return kind;
}

function judgeKind(first: Uint8Array, declared: number, limits: UploadLimits): UploadKind {
  if (first.length === 0) throw empty();
  const judged = judgeBytes(first);
  if (judged !== null) return judged === "safetensors" ? "model" : "picture";
  // Size is judged before type, and what is neither is too large even for a picture.
  if (declared > limits.picture) throw tooLarge(limits.picture);
  const detail = `Only JPEG, PNG, WebP, AVIF and .safetensors files are accepted; this is ${describeBytes(first)}.`;
  throw new Problem("unsupported-media-type", { detail });
}

/** 0 when it is not declared (chunked): then the count while streaming has to do. */
function declaredBytes(request: Request): number {
  const declared = Number(request.headers.get("content-length") ?? 0);
  return Number.isSafeInteger(declared) ? declared : 0;
}

/** Passes the body on; a client that went away becomes a problem of the request's, not a bug of ours. */
export async function* complete(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause) => {
        throw new Problem("invalid", { detail: "The body ended before it was complete.", cause });
      });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/**
 * Reads the first bytes without losing them: `whole` streams everything from the beginning, once. A caller that
 * throws instead leaves the body unread, which ends it.
 */
async function peek(body: AsyncIterable<Uint8Array>, bytes: number) {
  const iterator = body[Symbol.asyncIterator]();
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (length < bytes) {
    const next = await iterator.next();
    if (next.done) break;
    chunks.push(next.value);
    length += next.value.length;
  }
  async function* whole() {
    yield* chunks;
    yield* { [Symbol.asyncIterator]: () => iterator };
  }
  return { first: new Uint8Array(Buffer.concat(chunks)).subarray(0, bytes), whole };
}

function empty(): Problem {
  return invalid("/file", "The file is empty.");
}

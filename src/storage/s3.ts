/** The store on S3 or what speaks like it (MinIO, Garage, R2): one object per key in one bucket, path style. */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { Problem } from "../problems.ts";
import { contentDisposition } from "./disposition.ts";
import { checkKey, isKey } from "./keys.ts";
import { createS3Caller, nullOn, type S3Options } from "./s3-client.ts";
import { copyInParts, copyPartBytes, uploadInParts, uploadPartBytes } from "./s3-parts.ts";
import { onDisk, type SpooledFile, spool, tooLarge, unavailable } from "./spool.ts";
import type { Storage } from "./storage.ts";

/** A key like any other, of a name that nothing else takes. */
const idKey = "storage-id";

/**
 * @param temporaryDirectory for bodies of unknown length, which S3 does not take: they go to disk first, which also
 * gives the hash before anything is sent. Best not a memory file system.
 * @param partBytes the largest upload in one call, and the size of a part beyond it
 * @param largestCopyBytes the largest copy in one call, and the size of a part beyond it
 * @param stallMs how long the store may be silent in the middle of an object
 */
export function createS3Storage({
  temporaryDirectory = join(tmpdir(), "atelier"),
  partBytes = uploadPartBytes,
  largestCopyBytes = copyPartBytes,
  stallMs = 30_000,
  ...options
}: S3Options & {
  temporaryDirectory?: string;
  partBytes?: number;
  largestCopyBytes?: number;
  stallMs?: number;
}): Storage {
  const caller = createS3Caller(options);
  const { call, load } = caller;
  const Bucket = options.bucket;

  /** The store refuses what arrives otherwise than it was hashed here. */
  async function sendBytes(key: string, bytes: Uint8Array, contentType: string): Promise<string> {
    const hash = createHash("sha256").update(bytes).digest("hex");
    const input = { ...target(key, bytes.length, contentType, hash), Body: bytes };
    await call((client, sdk, limits) => client.send(new sdk.PutObjectCommand(input), limits), { bytes: bytes.length });
    return hash;
  }

  function target(key: string, size: number, contentType: string, hash: string) {
    const ChecksumSHA256 = Buffer.from(hash, "hex").toString("base64");
    return { Bucket, Key: key, ContentLength: size, ContentType: contentType, ChecksumSHA256 };
  }

  async function sendFile(key: string, file: SpooledFile, contentType: string): Promise<void> {
    if (file.size === 0) return void (await sendBytes(key, new Uint8Array(), contentType));
    if (file.size > partBytes) {
      return uploadInParts(caller, { bucket: Bucket, key }, file, { contentType, partBytes });
    }
    await call(
      (client, sdk, limits) => {
        const input = target(key, file.size, contentType, file.hash);
        return client.send(new sdk.PutObjectCommand({ ...input, Body: createReadStream(file.path) }), limits);
      },
      { bytes: file.size, attempts: 3 },
    );
  }

  async function sendStream(key: string, body: ReadableStream<Uint8Array>, contentType: string, maxBytes?: number) {
    await onDisk(() => mkdir(temporaryDirectory, { recursive: true }));
    const path = join(temporaryDirectory, randomUUID());
    try {
      const file = await spool(body, path, maxBytes);
      await sendFile(key, file, contentType);
      return { size: file.size, hash: file.hash };
    } finally {
      await rm(path, { force: true });
    }
  }

  async function head(key: string) {
    const found = await call((client, sdk, limits) =>
      client.send(new sdk.HeadObjectCommand({ Bucket, Key: key }), limits),
    ).catch(nullOn(404));
    return found && { size: found.ContentLength ?? 0, etag: found.ETag, contentType: found.ContentType };
  }

  async function remove(key: string): Promise<void> {
    if (!isKey(key)) return;
    const input = { Bucket, Key: key };
    await call((client, sdk, limits) => client.send(new sdk.DeleteObjectCommand(input), limits)).catch(nullOn(404));
  }

  /** `etag`: an object replaced between HEAD and GET would be cut to the old one's length. */
  function streamRange(key: string, start: number, end: number, etag?: string): ReadableStream<Uint8Array> {
    return streamLate(async () => {
      const input = { Bucket, Key: key, Range: `bytes=${start}-${end}`, IfMatch: etag };
      const answer = await call((client, sdk, limits) => client.send(new sdk.GetObjectCommand(input), limits));
      return answer.Body as Readable;
    }, stallMs);
  }

  async function readId(): Promise<string | null> {
    const found = await head(idKey);
    return found && (await new Response(streamRange(idKey, 0, found.size - 1, found.etag)).text()).trim();
  }

  return {
    async put(key, body, { contentType, maxBytes = Number.POSITIVE_INFINITY }) {
      checkKey(key);
      if (body instanceof ReadableStream) return sendStream(key, body, contentType, maxBytes);
      const size = body instanceof Uint8Array ? body.length : body.size;
      if (size > maxBytes) throw tooLarge(maxBytes);
      if (!(body instanceof Uint8Array)) {
        await sendFile(key, body, contentType);
        return { size, hash: body.hash };
      }
      return { size, hash: await sendBytes(key, body, contentType) };
    },

    async get(key, range) {
      const found = isKey(key) ? await head(key) : null;
      if (!found) return null;
      const start = range?.start ?? 0;
      const end = Math.min(range?.end ?? found.size - 1, found.size - 1);
      const stream = () => (start > end ? new Blob([]).stream() : streamRange(key, start, end, found.etag));
      return { size: found.size, stream };
    },

    delete: remove,

    async *list() {
      let token: string | undefined;
      do {
        const input = { Bucket, ContinuationToken: token };
        const page = await call((client, sdk, limits) => client.send(new sdk.ListObjectsV2Command(input), limits));
        for (const { Key = "", Size = 0, LastModified = new Date() } of page.Contents ?? []) {
          if (isKey(Key) && Key !== idKey) yield { key: Key, size: Size, modifiedAt: LastModified };
        }
        token = page.IsTruncated ? page.NextContinuationToken : undefined;
      } while (token);
    },

    async move(from, to) {
      checkKey(from);
      checkKey(to);
      const found = await head(from);
      if (!found) throw new Problem("not-found", { cause: new Error(`no object ${from}`) });
      if (from === to) return; // S3 refuses to copy an object to itself
      if (found.size > largestCopyBytes) {
        const copy = { contentType: found.contentType ?? "", size: found.size, partBytes: largestCopyBytes };
        await copyInParts(caller, { bucket: Bucket, key: from }, { bucket: Bucket, key: to }, copy);
      } else {
        const input = { Bucket, Key: to, CopySource: `${Bucket}/${from}` };
        await call((client, sdk, limits) => client.send(new sdk.CopyObjectCommand(input), limits), {
          bytes: found.size,
        });
      }
      // A process that dies here leaves the object under both keys, never under none.
      await remove(from);
    },

    async signedUrl(key, { ttlSeconds, contentType, fileName }) {
      checkKey(key);
      const [{ sdk, client }, { getSignedUrl }] = await Promise.all([load(), import("@aws-sdk/s3-request-presigner")]);
      const ResponseContentDisposition = fileName === undefined ? undefined : contentDisposition(fileName);
      const input = { Bucket, Key: key, ResponseContentType: contentType, ResponseContentDisposition };
      return getSignedUrl(client, new sdk.GetObjectCommand(input), { expiresIn: ttlSeconds });
    },

    async signedUpload(key, { ttlSeconds, contentType, size }) {
      checkKey(key);
      const [{ sdk, client }, { getSignedUrl }] = await Promise.all([load(), import("@aws-sdk/s3-request-presigner")]);
      const command = new sdk.PutObjectCommand({ Bucket, Key: key, ContentType: contentType, ContentLength: size });
      // The presigner leaves the type unsigned unless told: then anything could be put under it.
      return getSignedUrl(client, command, { expiresIn: ttlSeconds, signableHeaders: signedUploadHeaders });
    },

    async id() {
      const known = await readId();
      if (known) return known;
      const input = { Bucket, Key: idKey, Body: randomUUID(), ContentType: "text/plain" };
      const put = (condition: { IfNoneMatch?: string }) =>
        call((client, sdk, limits) => client.send(new sdk.PutObjectCommand({ ...input, ...condition }), limits));
      // The condition lets the first of several processes win. A store that does not know it (501) gets a plain one.
      await put({ IfNoneMatch: "*" })
        .catch(nullOn(409, 412))
        .catch(async (error) => nullOn(501)(error) ?? (await put({})));
      const made = await readId();
      if (!made) throw unavailable(new Error("the store does not keep its id"));
      return made;
    },
  };
}

const signedUploadHeaders = new Set(["host", "content-type", "content-length"]);

/**
 * A Web stream over a body that is asked for at the first read. Written out rather than `Readable.toWeb`, because the
 * store may fall silent: each read has its own time limit, which does not run while the reader is the slow one.
 */
function streamLate(open: () => Promise<Readable>, stallMs: number): ReadableStream<Uint8Array> {
  let body: Readable | null = null;
  let chunks: AsyncIterator<Uint8Array> | null = null;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        let timer: ReturnType<typeof setTimeout> | undefined;
        try {
          body ??= await open();
          chunks ??= body[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
          const stalled = new Promise<never>((_, reject) => {
            timer = setTimeout(() => reject(new Error(`the store was silent for ${stallMs} ms`)), stallMs);
          });
          const next = await Promise.race([chunks.next(), stalled]);
          if (next.done) controller.close();
          else controller.enqueue(next.value);
        } catch (error) {
          body?.destroy();
          controller.error(error instanceof Problem ? error : unavailable(error));
        } finally {
          clearTimeout(timer);
        }
      },
      cancel() {
        body?.destroy();
      },
    },
    { highWaterMark: 0 },
  );
}

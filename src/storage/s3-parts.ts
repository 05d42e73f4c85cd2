/** Objects too large for one call: S3 takes at most 5 GB at once, our models may have 8. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import type { S3Caller } from "./s3-client.ts";
import { onDisk, type SpooledFile, unavailable } from "./spool.ts";

interface Place {
  bucket: string;
  key: string;
}

/** A part of an upload: small enough to be sent again, and far from the limit of 10,000 parts at 8 GB. */
export const uploadPartBytes = 64 * 1024 * 1024;
/** The store copies by itself; larger parts are only fewer calls. */
export const copyPartBytes = 1024 * 1024 * 1024;

/**
 * Sends a file in parts. Nothing shows under the key before the last call; a failed upload is taken back. The store
 * refuses a part that arrives otherwise than it was read here, and what was read must have the file's sha256. Parts
 * carry Content-MD5, which every store knows: their sha256 would have to be agreed on when the upload begins, and
 * stores that do not know that refuse it.
 */
export async function uploadInParts(
  { call }: S3Caller,
  { bucket: Bucket, key: Key }: Place,
  file: SpooledFile,
  { contentType, partBytes }: { contentType: string; partBytes: number },
): Promise<void> {
  const whole = createHash("sha256");
  await inParts({ call }, { bucket: Bucket, key: Key }, contentType, file.size, partBytes, async (part) => {
    const length = part.end - part.start + 1;
    const md5 = createHash("md5");
    await onDisk(async () => {
      for await (const chunk of createReadStream(file.path, { start: part.start, end: part.end })) {
        whole.update(chunk);
        md5.update(chunk);
      }
    });
    const ContentMD5 = md5.digest("base64");
    if (part.end === file.size - 1 && whole.digest("hex") !== file.hash) {
      throw unavailable(new Error("the file has changed on its way to the store"));
    }
    const sent = await call(
      (client, sdk, options) => {
        const Body = createReadStream(file.path, { start: part.start, end: part.end });
        const place = { Bucket, Key, UploadId: part.uploadId, PartNumber: part.number };
        const input = { ...place, Body, ContentLength: length, ContentMD5 };
        return client.send(new sdk.UploadPartCommand(input), options);
      },
      { bytes: length, attempts: 3 },
    );
    return sent.ETag;
  });
}

/** Copies an object of `size` bytes within the store. */
export async function copyInParts(
  { call }: S3Caller,
  from: Place,
  { bucket: Bucket, key: Key }: Place,
  { contentType, size, partBytes }: { contentType: string; size: number; partBytes: number },
): Promise<void> {
  await inParts({ call }, { bucket: Bucket, key: Key }, contentType, size, partBytes, async (part) => {
    const input = {
      ...{ Bucket, Key, UploadId: part.uploadId, PartNumber: part.number },
      CopySource: `${from.bucket}/${from.key}`,
      CopySourceRange: `bytes=${part.start}-${part.end}`,
    };
    const copied = await call((client, sdk, options) => client.send(new sdk.UploadPartCopyCommand(input), options), {
      bytes: part.end - part.start + 1,
    });
    return copied.CopyPartResult?.ETag;
  });
}

interface Part {
  uploadId: string;
  /** From 1. */
  number: number;
  start: number;
  /** Inclusive. */
  end: number;
}

/** Begins, makes each part (`make` returns its ETag), and completes; or takes all back. One after another: a second
 * stream to the same store is rarely faster, and eight would hold eight sockets. */
async function inParts(
  { call }: Pick<S3Caller, "call">,
  { bucket: Bucket, key: Key }: Place,
  contentType: string,
  size: number,
  partBytes: number,
  make: (part: Part) => Promise<string | undefined>,
): Promise<void> {
  const { UploadId } = await call((client, sdk, options) =>
    client.send(new sdk.CreateMultipartUploadCommand({ Bucket, Key, ContentType: contentType }), options),
  );
  try {
    const Parts: { PartNumber: number; ETag?: string }[] = [];
    for (let start = 0; start < size; start += partBytes) {
      const number = Parts.length + 1;
      const end = Math.min(start + partBytes, size) - 1;
      Parts.push({ PartNumber: number, ETag: await make({ uploadId: UploadId ?? "", number, start, end }) });
    }
    const input = { Bucket, Key, UploadId, MultipartUpload: { Parts } };
    // Stores join the parts before they answer, so the time goes by the whole.
    await call((client, sdk, options) => client.send(new sdk.CompleteMultipartUploadCommand(input), options), {
      bytes: size,
    });
  } catch (error) {
    // Parts of an abandoned upload are stored, and paid for, until a life-cycle rule of the bucket removes them.
    await call((client, sdk, options) =>
      client.send(new sdk.AbortMultipartUploadCommand({ Bucket, Key, UploadId }), options),
    ).catch(() => undefined);
    throw error;
  }
}

/**
 * Pictures as we keep them: decoded once to prove what they are, turned upright, without metadata (EXIF tells where
 * people live), written anew in their own format. On sharp: libvips decodes in a thread, strip by strip.
 */
import { open } from "node:fs/promises";
import { availableParallelism } from "node:os";
import sharp, { type Metadata, type Sharp } from "sharp";
import { Problem } from "../problems.ts";
import { describeBytes, judgeBytes, judgedBytes, type PictureFormat } from "./magic.ts";
import { onDisk } from "./spool.ts";

export interface Picture {
  bytes: Uint8Array;
  contentType: "image/jpeg" | "image/png" | "image/webp" | "image/avif";
  extension: "jpg" | "png" | "webp" | "avif";
  /** In pixels, after turning upright. */
  width: number;
  height: number;
}

/** Decoded, a pixel takes four bytes: a quarter of a gigabyte, whatever the file's size was. */
export const maxPixels = 64_000_000;
const previewEdge = 256;

// Two decoders of one thread each rather than one of many: a picture's time is mostly its codec's, which is serial.
// Without the bound, 20 large uploads would decode into 5 GB at once.
const slots = { free: Math.max(2, availableParallelism()), waiting: [] as (() => void)[] };
sharp.concurrency(1);
sharp.cache(false); // it caches by file name, and holds memory for what is read once

const types = {
  jpeg: { contentType: "image/jpeg", extension: "jpg", decodedAs: "jpeg" },
  png: { contentType: "image/png", extension: "png", decodedAs: "png" },
  webp: { contentType: "image/webp", extension: "webp", decodedAs: "webp" },
  avif: { contentType: "image/avif", extension: "avif", decodedAs: "heif" },
} as const;

export const pictureTypes = Object.values(types).map(({ contentType }) => contentType);

/**
 * Reads a picture from its bytes or a file and returns it as we store it. The same input gives the same bytes, so
 * that the hash tells duplicates. Of an animation the first frame stays.
 *
 * @throws Problem "unsupported-media-type" for all that does not decode as JPEG, PNG, WebP or AVIF; "too-large" for
 * more than `maxPixels`
 */
export async function readPicture(input: Uint8Array | string): Promise<Picture> {
  const first = typeof input === "string" ? await readFirst(input) : input.subarray(0, judgedBytes);
  const format = judgeBytes(first);
  if (format === null || format === "safetensors") {
    throw refused(`Only JPEG, PNG, WebP and AVIF pictures are accepted; this is ${describeBytes(first)}.`);
  }
  return inTurn(async () => {
    // "error" refuses truncated and damaged files, but not the stray bytes many cameras leave behind a JPEG.
    const image = sharp(input, { failOn: "error", limitInputPixels: maxPixels, pages: 1 });
    const { contentType, extension, decodedAs } = types[format];
    try {
      const metadata = await image.metadata();
      if (metadata.format !== decodedAs) throw new Error(`decodes as ${metadata.format}`);
      const { data, info } = await encode(image.autoOrient(), format, metadata, first).toBuffer({
        resolveWithObject: true,
      });
      return { bytes: data, contentType, extension, width: info.width, height: info.height };
    } catch (cause) {
      // libvips says so from the header alone, before it decodes.
      if (cause instanceof Error && cause.message.includes("exceeds pixel limit")) {
        throw new Problem("too-large", { detail: "A picture may have at most 64 megapixels.", cause });
      }
      throw refused(`The file begins like ${format.toUpperCase()} but cannot be decoded as such.`, cause);
    }
  });
}

/** A small WebP of what an engine shows of its work: nobody's upload, but nothing to be trusted either. */
export async function makePreview(bytes: Uint8Array): Promise<Uint8Array> {
  return inTurn(() =>
    sharp(bytes, { limitInputPixels: maxPixels })
      .resize({ width: previewEdge, height: previewEdge, fit: "inside", withoutEnlargement: true })
      .webp({ quality: 60, effort: 2 })
      .toBuffer(),
  );
}

/** High enough that training does not learn our artefacts; what came lossless stays lossless. */
function encode(image: Sharp, format: PictureFormat, metadata: Metadata, first: Uint8Array): Sharp {
  switch (format) {
    case "jpeg":
      return image.jpeg({ quality: 95, chromaSubsampling: metadata.chromaSubsampling === "4:4:4" ? "4:4:4" : "4:2:0" });
    case "png":
      // Without this, 16 bits a channel silently become 8.
      return (metadata.depth === "ushort" ? image.toColourspace("rgb16") : image).png({ compressionLevel: 6 });
    case "webp": {
      const isLossless = String.fromCharCode(...first.subarray(12, 16)) === "VP8L";
      return image.webp(isLossless ? { lossless: true } : { quality: 95, effort: 2 }); // half the default's time
    }
    case "avif":
      // Measured on 6 MP, one thread: effort 4 (the default) 35 s, effort 2 5 s, effort 0 0.9 s, at much the same size.
      return image.avif({ quality: 85, effort: 0 });
  }
}

/**
 * Runs at most as many at once as there are slots; the others wait in order.
 *
 * @param isNext for what goes on with a picture that is in memory already: behind the others, each of them would hold
 * its own until the last was read
 */
export async function inTurn<T>(work: () => Promise<T>, isNext = false): Promise<T> {
  const wait = (resolve: () => void) => (isNext ? slots.waiting.unshift(resolve) : slots.waiting.push(resolve));
  if (slots.free > 0) slots.free -= 1;
  else await new Promise<void>(wait); // the slot is handed over, not freed
  try {
    return await work();
  } finally {
    const next = slots.waiting.shift();
    if (next) next();
    else slots.free += 1;
  }
}

export async function readFirst(path: string): Promise<Uint8Array> {
  return onDisk(async () => {
    const file = await open(path, "r");
    try {
      const { bytesRead, buffer } = await file.read(new Uint8Array(judgedBytes), 0, judgedBytes, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  });
}

function refused(detail: string, cause?: unknown): Problem {
  return new Problem("unsupported-media-type", { detail, cause });
}

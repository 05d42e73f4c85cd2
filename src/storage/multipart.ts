/** The files of a multipart/form-data body, handed on as they stream in. */
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import busboy from "@fastify/busboy";
import { invalid, Problem } from "../problems.ts";

const sliceBytes = 64 * 1024;
const maxOutsideBytes = 1024 * 1024;

/** Takes a part's stream; what it throws ends the whole. */
type Take<T> = (file: AsyncIterable<Uint8Array>, fileName: string | null) => Promise<T>;

/**
 * Finds the part named `file` and gives its stream to `take`. Any other part is refused by name: nothing that was sent
 * is dropped silently. The rest of the body is left unread as soon as something is wrong.
 *
 * @throws Problem "invalid" for a missing or second file, another part, a broken body; whatever `take` throws
 */
export async function findFilePart<T>(body: AsyncIterable<Uint8Array>, contentType: string, take: Take<T>): Promise<T> {
  const [result] = await readFileParts(body, contentType, take, 1);
  return result as T;
}

/** Parts that may have begun before those ahead of them were taken: what they hold is in memory. */
const maxAhead = 8;

/**
 * Gives every part named `file` to `take`, one after the other, in their order.
 *
 * @param maxFiles more are refused
 * @returns what `take` answered
 * @throws like `findFilePart`
 */
export async function readFileParts<T>(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  take: Take<T>,
  maxFiles: number,
): Promise<T[]> {
  const stop = new AbortController();
  let failure: unknown = null;
  const fail = (error: unknown) => {
    failure ??= error;
    stop.abort();
  };

  const taken: T[] = [];
  let files = 0;
  let last: Promise<void> = Promise.resolve();
  let part: Readable | null = null;
  let outside = 0;
  const parser = openParser(contentType, maxFiles > 1);
  parser.on("file", (name, stream, fileName) => {
    if (failure || name !== "file" || files === maxFiles) {
      stream.on("error", () => undefined).resume();
      const tooMany =
        maxFiles === 1 ? "Only one file may be sent at a time." : `At most ${maxFiles} files may be sent.`;
      fail(name === "file" ? invalid("/file", tooMany) : unknownPart(name));
      return;
    }
    files += 1;
    part = stream;
    outside = 0;
    stream.on("error", () => undefined); // its reader may not have come to it yet
    last = last.then(async () => {
      if (failure) return void stream.resume();
      try {
        taken.push(await take(asBody(stream), cleanName(fileName)));
      } catch (error) {
        fail(error);
      }
    });
  });
  parser.on("field", (name) => {
    fail(name === "file" ? invalid("/file", "The part `file` must be a file, with a file name.") : unknownPart(name));
  });

  // The parser tells of a field only at its end and of a preamble never: an endless one is ours to stop.
  async function* bounded() {
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length; at += sliceBytes) {
        if (!part || part.destroyed) outside += sliceBytes;
        if (outside > maxOutsideBytes) throw broken(new Error(`more than ${maxOutsideBytes} bytes around the file`));
        // All but the newest of the parts that have begun are here whole: they can be taken without reading on.
        while (files - taken.length > maxAhead && !failure) await sleep(1);
        yield chunk.subarray(at, at + sliceBytes);
      }
    }
  }
  await pipeline(bounded(), parser, { signal: stop.signal }).catch((error) => {
    failure ??= error instanceof Problem ? error : broken(error);
    part?.destroy(); // the parser leaves it open, and whoever reads it would wait for ever
  });
  await last;
  if (failure) throw failure;
  if (files === 0) throw invalid("/file", "A part named `file` with the file is missing.");
  return taken;
}

/** @param isFolder names keep the path that they have in it */
function openParser(contentType: string, isFolder: boolean) {
  try {
    // One part more than allowed is seen, so that it can be refused; of fields we only need the names.
    const limits = { fieldSize: 1024, headerPairs: 32 };
    return busboy({ headers: { "content-type": contentType }, limits, preservePath: isFolder });
  } catch (cause) {
    throw broken(cause);
  }
}

/** The part's stream fails when the body ends within it. */
async function* asBody(part: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* part;
  } catch (error) {
    throw error instanceof Problem ? error : broken(error);
  }
}

function cleanName(name: string | undefined): string | null {
  const clean = (name ?? "").replaceAll(/\p{C}/gu, "").trim();
  return [...clean].slice(-200).join("") || null;
}

function unknownPart(part: string): Problem {
  const pointer = `/${part.slice(0, 100).replaceAll("~", "~0").replaceAll("/", "~1")}`;
  return invalid(pointer, "Only parts named `file` are accepted.");
}

function broken(cause: unknown): Problem {
  return new Problem("invalid", { detail: "The multipart body is broken or ends too early.", cause });
}

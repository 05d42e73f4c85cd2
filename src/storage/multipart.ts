/** The one file of a multipart/form-data body, handed on as it streams in. */
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import busboy from "@fastify/busboy";
import { invalid, Problem } from "../problems.ts";

const sliceBytes = 64 * 1024;
const maxOutsideBytes = 1024 * 1024;

/**
 * Finds the part named `file` and gives its stream to `take`. Any other part is refused by name: nothing that was sent
 * is dropped silently. The rest of the body is left unread as soon as something is wrong.
 *
 * @throws Problem "invalid" for a missing or second file, another part, a broken body; whatever `take` throws
 */
export async function findFilePart<T>(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  take: (file: AsyncIterable<Uint8Array>, fileName: string | null) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  let failure: unknown = null;
  const fail = (error: unknown) => {
    failure ??= error;
    stop.abort();
  };

  let taken: Promise<T | undefined> | null = null;
  let part: Readable | null = null;
  const parser = openParser(contentType);
  parser.on("file", (name, stream, fileName) => {
    if (failure || name !== "file" || taken) {
      stream.on("error", () => undefined).resume();
      fail(name === "file" ? invalid("/file", "Only one file may be sent at a time.") : unknownPart(name));
      return;
    }
    part = stream;
    taken = take(asBody(stream), cleanName(fileName)).catch((error) => {
      fail(error);
      return undefined;
    });
  });
  parser.on("field", (name) => {
    fail(name === "file" ? invalid("/file", "The part `file` must be a file, with a file name.") : unknownPart(name));
  });

  // The parser tells of a field only at its end and of a preamble never: an endless one is ours to stop.
  async function* bounded() {
    let outside = 0;
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length; at += sliceBytes) {
        if (!part || part.destroyed) outside += sliceBytes;
        if (outside > maxOutsideBytes) throw broken(new Error(`more than ${maxOutsideBytes} bytes around the file`));
        yield chunk.subarray(at, at + sliceBytes);
      }
    }
  }
  await pipeline(bounded(), parser, { signal: stop.signal }).catch((error) => {
    failure ??= error instanceof Problem ? error : broken(error);
    part?.destroy(); // the parser leaves it open, and whoever reads it would wait for ever
  });
  const result = await taken;
  if (failure) throw failure;
  if (!taken) throw invalid("/file", "A part named `file` with the file is missing.");
  return result as T;
}

function openParser(contentType: string) {
  try {
    // One part more than allowed is seen, so that it can be refused; of fields we only need the names.
    return busboy({ headers: { "content-type": contentType }, limits: { fieldSize: 1024, headerPairs: 32 } });
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
  return invalid(pointer, "Only one part, named `file`, is accepted.");
}

function broken(cause: unknown): Problem {
  return new Problem("invalid", { detail: "The multipart body is broken or ends too early.", cause });
}

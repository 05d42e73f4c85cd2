/**
 * Many files in one request, as people have them: a folder (a form with many parts named `file`, each with its path)
 * or a ZIP. Streamed, one after the other. On yauzl, which checks names and sizes and reads one entry at a time.
 */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";
import { type Entry, type Options, open, type ZipFile } from "yauzl";
import { invalid, Problem } from "../problems.ts";
import { readFileParts } from "./multipart.ts";
import { onDisk, spool, tooLarge } from "./spool.ts";
import { complete, uploadLimits } from "./upload.ts";

/** As many pictures as a data set may have, and a caption for each. */
const maxItems = 20_000;
/** What systems put into folders and archives for themselves. */
const junk = /(^|\/)(__MACOSX|\.[^/]*|Thumbs\.db|desktop\.ini)(\/|$)/i;

export interface Item {
  /** Its path in the folder or archive. */
  name: string;
  /** To be read at once or not at all. */
  body: AsyncIterable<Uint8Array>;
}

const zipType = /^application\/(x-)?zip(-compressed)?\s*(;|$)/i;
const formType = /^multipart\/form-data\s*(;|$)/i;

/** @throws Problem "unsupported-media-type" for what is neither a form nor a ZIP */
export function refuseOtherTypes(request: Request): void {
  const contentType = request.headers.get("content-type") ?? "";
  if (zipType.test(contentType) || formType.test(contentType)) return;
  throw new Problem("unsupported-media-type", { detail: "The body must be multipart/form-data or application/zip" });
}

/**
 * Gives every file of a request to `take`, those within ZIPs too; files of the system's own are passed over.
 *
 * @throws Problem "invalid" for a broken body or archive; "too-large" beyond 8 GB, packed or unpacked
 */
export async function receiveItems(
  request: Request,
  directory: string,
  take: (item: Item) => Promise<void>,
): Promise<void> {
  const contentType = request.headers.get("content-type") ?? "";
  if (!request.body) throw invalid("/file", "There is no file.");
  await onDisk(() => mkdir(directory, { recursive: true }));
  const budget = { left: uploadLimits.model, items: maxItems };
  const pass = async (item: Item): Promise<void> => {
    if (junk.test(item.name)) return drain(item.body);
    budget.items -= 1;
    if (budget.items < 0) throw invalid("/file", `At most ${maxItems} files may be sent.`);
    await take({ ...item, body: counted(item.body, budget) });
  };
  const unpack = async (body: AsyncIterable<Uint8Array>): Promise<void> => {
    const path = join(directory, randomUUID());
    try {
      await spool(body, path, uploadLimits.model);
      await readZip(path, pass);
    } finally {
      await rm(path, { force: true });
    }
  };
  const body = complete(request.body);
  if (zipType.test(contentType)) return unpack(body);
  await readFileParts(
    body,
    contentType,
    (part, name) => (/\.zip$/i.test(name ?? "") ? unpack(part) : pass({ name: name ?? "file", body: part })),
    maxItems,
  );
}

/**
 * What is unpacked counts: an archive may hold a thousand times its size. Who stops reading early still takes the rest
 * along, since the next file comes behind it.
 */
async function* counted(body: AsyncIterable<Uint8Array>, budget: { left: number }): AsyncGenerator<Uint8Array> {
  const chunks = body[Symbol.asyncIterator]();
  const next = async () => {
    const { done, value } = await chunks.next();
    budget.left -= done ? 0 : value.length;
    if (budget.left < 0) throw tooLarge(uploadLimits.model);
    return done ? null : value;
  };
  let isOver = false;
  try {
    for (let chunk = await next(); chunk; chunk = await next()) yield chunk;
    isOver = true;
  } finally {
    while (!isOver && budget.left >= 0) isOver = (await next()) === null;
  }
}

async function drain(body: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of body);
}

const openZip = promisify<string, Options, ZipFile>(open);

async function readZip(path: string, take: (item: Item) => Promise<void>): Promise<void> {
  const zip = await openZip(path, { lazyEntries: true, autoClose: false }).catch(throwBroken);
  const openEntry = promisify<Entry, Readable>(zip.openReadStream.bind(zip));
  try {
    for await (const entry of entriesOf(zip)) {
      if (entry.fileName.endsWith("/") || junk.test(entry.fileName)) continue;
      const stream = await openEntry(entry).catch(throwBroken); // encrypted ones too
      try {
        await take({ name: entry.fileName, body: unpacked(stream) });
      } finally {
        stream.destroy();
      }
    }
  } finally {
    zip.close();
  }
}

async function* unpacked(stream: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* stream;
  } catch (error) {
    throwBroken(error);
  }
}

function throwBroken(cause: unknown): never {
  const reason = cause instanceof Error ? `: ${cause.message}` : "";
  throw new Problem("invalid", { detail: `The ZIP cannot be read${reason}`, cause });
}

async function* entriesOf(zip: ZipFile): AsyncGenerator<Entry> {
  for (let read = 0; read < zip.entryCount; read += 1) {
    yield await new Promise<Entry>((resolve, reject) => {
      zip.once("entry", resolve).once("error", reject);
      zip.readEntry();
    })
      .catch(throwBroken)
      .finally(() => zip.removeAllListeners());
  }
}

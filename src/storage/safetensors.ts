/**
 * Reads the header of a .safetensors file: the only model format taken, because reading it runs nothing. The rules are
 * those of the format's specification (huggingface/safetensors), offsets without holes included.
 */
import { open } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import { Problem } from "../problems.ts";
import { describeBytes, headerLength, judgeBytes, judgedBytes, maxHeaderBytes } from "./magic.ts";
import { onDisk } from "./spool.ts";

export interface SafetensorsHeader {
  tensors: number;
  /** What the maker wrote into it, unverified: `ss_base_model_version`, trigger words and the like. */
  metadata: Record<string, string>;
}

/** Headers of real models stay below: some hundred bytes for each of a few thousand tensors. */
const inlineBytes = 1_000_000;
const asideMs = 60_000;

/** Bits of one element. */
const dtypeBits: Record<string, number> = {
  ...{ F4: 4, F6_E2M3: 6, F6_E3M2: 6, BOOL: 8, U8: 8, I8: 8 },
  ...{ F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
  ...{ I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, I64: 64, U64: 64, F64: 64, C64: 64 },
};

/**
 * Reads and checks the header of a whole file on disk; the tensors themselves are not read.
 *
 * @throws Problem "unsupported-media-type" that says what is wrong
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const { first, header, size } = await onDisk(async () => {
    const file = await open(path, "r");
    try {
      const { size } = await file.stat();
      const first = await readAt(file, 0, Math.min(judgedBytes, size));
      const isPlausible = judgeBytes(first) === "safetensors" && headerLength(first) <= size - 8;
      return { first, size, header: isPlausible ? await readAt(file, 8, headerLength(first)) : null };
    } finally {
      await file.close();
    }
  });
  if (!header) throw refusedFirst(first, size);
  const dataBytes = size - 8 - header.length;
  return header.length > inlineBytes ? parseAside(header, dataBytes) : parseSafetensorsHeader(header, dataBytes);
}

/** In a thread: JSON.parse of a hostile header takes seconds, in which this process would answer nobody. */
function parseAside(header: Uint8Array, dataBytes: number): Promise<SafetensorsHeader> {
  const worker = new Worker(new URL("./safetensors-worker.ts", import.meta.url), {
    workerData: { header, dataBytes },
  });
  let timer: ReturnType<typeof setTimeout>;
  return new Promise<SafetensorsHeader>((resolve, reject) => {
    timer = setTimeout(() => reject(refused("its header takes too long to read")), asideMs);
    worker.once("message", ({ result, detail }) => {
      if (result) resolve(result);
      else reject(new Problem("unsupported-media-type", { detail }));
    });
    worker.once("error", reject);
  }).finally(() => {
    clearTimeout(timer);
    return worker.terminate();
  });
}

/**
 * @param header the JSON, without the eight bytes of its length
 * @param dataBytes what follows the header
 * @throws Problem "unsupported-media-type" that says what is wrong
 */
export function parseSafetensorsHeader(header: Uint8Array, dataBytes: number): SafetensorsHeader {
  const entries = Object.entries(parseObject(header));
  const spans: [number, number][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of entries) {
    if (name === "__metadata__") metadata = checkMetadata(value);
    else spans.push(checkTensor(name, value));
  }
  // Holes and overlaps could hide other content; a file cut short ends before its last tensor.
  let end = 0;
  for (const [start, stop] of spans.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (start !== end) throw refused(`its tensors leave a hole or overlap at byte ${Math.min(start, end)}`);
    end = stop;
  }
  if (end !== dataBytes) throw refused(`its tensors take ${end} bytes, but ${dataBytes} follow the header`);
  return { tensors: spans.length, metadata };
}

function parseObject(header: Uint8Array): object {
  try {
    const value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(header));
    if (isObject(value)) return value;
  } catch (cause) {
    throw refused("its header is not JSON", cause);
  }
  throw refused("its header is not a JSON object");
}

function checkMetadata(value: unknown): Record<string, string> {
  const metadata: Record<string, string> = {};
  if (!isObject(value)) throw refused("its __metadata__ is not an object");
  for (const [name, text] of Object.entries(value)) {
    if (typeof text !== "string") throw refused("its __metadata__ must map names to texts");
    metadata[name] = text;
  }
  return metadata;
}

/**
 * Written out rather than as a schema: a header may describe a million tensors, and zod takes seven times as long.
 * @returns where its bytes begin and end, counted from the end of the header
 */
function checkTensor(name: string, value: unknown): [number, number] {
  const fail = (reason: string) => refused(`its tensor ${JSON.stringify(name.slice(0, 100))} ${reason}`);
  if (!isObject(value)) throw fail("is not an object");
  const { dtype, shape, data_offsets: offsets, ...others } = value;
  for (const other in others) throw fail(`has an unknown field ${JSON.stringify(other.slice(0, 100))}`);
  const elementBits = typeof dtype === "string" && Object.hasOwn(dtypeBits, dtype) ? dtypeBits[dtype] : undefined;
  if (elementBits === undefined) throw fail("has an unknown dtype");
  if (!isCounts(shape)) throw fail("has a shape that is not a list of counts");
  if (!isCounts(offsets) || offsets.length !== 2) throw fail("has data_offsets that are not two counts");
  const [start = 0, end = 0] = offsets;
  const bytes = shape.reduce((product, length) => product * length, elementBits) / 8;
  if (end - start !== bytes) throw fail(`takes ${bytes} bytes by its shape, ${end - start} by its offsets`);
  return [start, end];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

async function readAt(file: Awaited<ReturnType<typeof open>>, position: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function refusedFirst(first: Uint8Array, size: number): Problem {
  if (judgeBytes(first) === "safetensors") return refused(`its header would end behind the file's ${size} bytes`);
  const length = first.length >= 9 && first[8] === 0x7b ? headerLength(first) : 0;
  if (length > maxHeaderBytes)
    return refused(`its header claims ${length} bytes; at most ${maxHeaderBytes} are allowed`);
  const detail = `Only .safetensors model files are accepted; this is ${describeBytes(first)}.`;
  return new Problem("unsupported-media-type", { detail });
}

function refused(reason: string, cause?: unknown): Problem {
  return new Problem("unsupported-media-type", { detail: `This is not a valid .safetensors file: ${reason}.`, cause });
}

/**
 * Reads and writes the safetensors format: eight bytes of header length (little-endian), a JSON header, then the
 * tensors' bytes without gaps. @see https://github.com/huggingface/safetensors#format
 */
import { open } from "node:fs/promises";
import { PythonError } from "./python.ts";

/** What a tensor may be stored as here. Values are 32-bit floats in memory; BF16 is rounded on the way out. */
export type DType = "F32" | "BF16";

export interface Tensor {
  dtype: DType;
  shape: number[];
  values: Float32Array;
}

export interface TensorFile {
  tensors: Map<string, Tensor>;
  metadata: Record<string, string>;
}

/** Headers beyond this are refused, as the format's own reader does. */
const maxHeaderBytes = 100_000_000;

export function encodeSafetensors({ tensors, metadata }: TensorFile): Uint8Array {
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, tensor] of tensors) {
    const bytes = tensor.dtype === "BF16" ? toBf16(tensor.values) : toLittleEndian(tensor.values);
    header[name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
    parts.push(bytes);
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Spaces up to a multiple of eight, so that readers may map the tensors in place.
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + offset).fill(0x20, 8, 8 + headerBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(json, 8);
  let at = 8 + headerBytes;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

interface Header {
  metadata: Record<string, string> | null;
  entries: Map<string, { dtype: string; shape: number[]; start: number; end: number }>;
  /** Where the tensors' bytes begin in the file. */
  dataStart: number;
}

/**
 * Reads a file's header and those tensors that are F32 or BF16 and whose names `wanted` accepts; the rest of a big
 * foreign file is never loaded.
 *
 * @throws PythonError as the format's own reader does, when the file is not safetensors
 */
export async function readSafetensors(path: string, wanted: (name: string) => boolean): Promise<TensorFile> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const readAt = async (position: number, length: number) => {
      const bytes = new Uint8Array(length);
      await file.read(bytes, 0, length, position);
      return bytes;
    };
    if (size < 8) throw malformed("HeaderTooSmall");
    const length = Number(new DataView((await readAt(0, 8)).buffer).getBigUint64(0, true));
    if (length > maxHeaderBytes) throw malformed("HeaderTooLarge");
    if (8 + length > size) throw malformed("InvalidHeaderLength");
    const header = parseHeader(await readAt(8, length), length);
    const tensors = new Map<string, Tensor>();
    for (const [name, entry] of header.entries) {
      if (header.dataStart + entry.end > size) throw malformed("MetadataIncompleteBuffer");
      if (!wanted(name) || (entry.dtype !== "F32" && entry.dtype !== "BF16")) continue;
      const bytes = await readAt(header.dataStart + entry.start, entry.end - entry.start);
      const values = entry.dtype === "F32" ? fromLittleEndian(bytes) : fromBf16(bytes);
      tensors.set(name, { dtype: entry.dtype, shape: entry.shape, values });
    }
    return { tensors, metadata: header.metadata ?? {} };
  } finally {
    await file.close();
  }
}

/** The `__metadata__` block, or null when the file has none, is not safetensors, or its header is over `maxBytes`. */
export async function readMetadata(path: string, maxBytes: number): Promise<Record<string, string> | null> {
  const file = await open(path, "r");
  try {
    const start = new Uint8Array(8);
    if ((await file.read(start, 0, 8, 0)).bytesRead < 8) return null;
    const length = Number(new DataView(start.buffer).getBigUint64(0, true));
    if (length > maxBytes) return null;
    const json = new Uint8Array(length);
    if ((await file.read(json, 0, length, 8)).bytesRead < length) return null;
    return parseHeader(json, length).metadata;
  } finally {
    await file.close();
  }
}

function parseHeader(json: Uint8Array, length: number): Header {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  } catch {
    throw malformed("InvalidHeaderDeserialization");
  }
  if (typeof parsed !== "object" || parsed === null) throw malformed("InvalidHeaderStart");
  const header: Header = { metadata: null, entries: new Map(), dataStart: 8 + length };
  for (const [name, value] of Object.entries(parsed)) {
    if (name === "__metadata__") {
      header.metadata = value;
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = value ?? {};
    if (typeof dtype !== "string" || !Array.isArray(shape) || !Array.isArray(offsets)) throw malformed("InvalidTensor");
    header.entries.set(name, { dtype, shape, start: Number(offsets[0]), end: Number(offsets[1]) });
  }
  return header;
}

function malformed(reason: string): PythonError {
  return new PythonError("safetensors_rust.SafetensorError", `Error while deserializing header: ${reason}`);
}

function toLittleEndian(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => {
    view.setFloat32(i * 4, value, true);
  });
  return bytes;
}

function fromLittleEndian(bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(i * 4, true));
}

/** The upper half of a 32-bit float, rounded to nearest. */
function toBf16(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length * 2);
  const out = new DataView(bytes.buffer);
  const word = new DataView(new ArrayBuffer(4));
  values.forEach((value, i) => {
    word.setFloat32(0, value);
    out.setUint16(i * 2, Math.min(0xffff, (word.getUint32(0) + 0x8000) >>> 16), true);
  });
  return bytes;
}

function fromBf16(bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const word = new DataView(new ArrayBuffer(4));
  return Float32Array.from({ length: bytes.length / 2 }, (_, i) => {
    word.setUint32(0, view.getUint16(i * 2, true) << 16);
    return word.getFloat32(0);
  });
}

/** Which model files are taken: by their header, and by nothing else. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readSafetensorsHeader } from "../../src/storage/safetensors.ts";
import { freshDirectory, removeDirectories } from "./contract.ts";

afterAll(removeDirectories);

const directory = await freshDirectory();
const path = join(directory, "model");
afterEach(() => writeFile(path, ""));

async function readBytes(...parts: (Uint8Array | string)[]) {
  await writeFile(path, Buffer.concat(parts.map((part) => Buffer.from(part as string))));
  return readSafetensorsHeader(path);
}

/** A file of this header, with this many bytes of data after it. */
function file(header: unknown, dataBytes: number, claimed?: number | bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(claimed ?? text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const tensor = (dtype: string, shape: number[], start: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [start, end],
});

describe("taken", () => {
  test.each([
    { what: "one tensor", header: { a: tensor("F16", [2, 3], 0, 12) }, bytes: 12, tensors: 1 },
    { what: "a scalar", header: { a: tensor("F32", [], 0, 4) }, bytes: 4, tensors: 1 },
    { what: "none", header: {}, bytes: 0, tensors: 0 },
    { what: "an empty tensor", header: { a: tensor("I64", [0, 7], 0, 0) }, bytes: 0, tensors: 1 },
    { what: "half bytes", header: { a: tensor("F4", [3, 2], 0, 3) }, bytes: 3, tensors: 1 },
    {
      what: "tensors in any order, with an empty one between",
      header: {
        b: tensor("U8", [5], 8, 13),
        e: tensor("BOOL", [0], 8, 8),
        a: tensor("BF16", [4], 0, 8),
        c: tensor("F8_E4M3", [2], 13, 15),
      },
      bytes: 15,
      tensors: 4,
    },
    {
      what: "a header padded with blanks",
      header: `${JSON.stringify({ a: tensor("U8", [1], 0, 1) })}      `,
      bytes: 1,
      tensors: 1,
    },
  ])("$what", async ({ header, bytes, tensors }) => {
    expect(await readBytes(file(header, bytes))).toEqual({ tensors, metadata: {} });
  });

  test("with its metadata, whatever the names", async () => {
    const metadata = { ss_base_model_version: "sd_v1", 貓: "喵", toString: "x" };
    const header = { __metadata__: metadata, a: tensor("F64", [1], 0, 8) };
    expect(await readBytes(file(header, 8))).toEqual({ tensors: 1, metadata });
  });

  test("a header of some megabytes, without holding up the process", async () => {
    const header = Object.fromEntries(
      Array.from({ length: 30_000 }, (_, n) => [`layer.${n}`, tensor("U8", [1], n, n + 1)]),
    );
    expect(await readBytes(file(header, 30_000))).toEqual({ tensors: 30_000, metadata: {} });
    await expect(readBytes(file(header, 29_999))).rejects.toMatchObject({
      code: "unsupported-media-type",
      message: expect.stringContaining("29999 follow the header"),
    });
  });
});

describe("refused", () => {
  const one = { a: tensor("U8", [4], 0, 4) };
  test.each([
    { what: "nothing", bytes: new Uint8Array(), reason: "something else" },
    { what: "eight bytes", bytes: new Uint8Array(8), reason: "something else" },
    { what: "a pickle", bytes: [0x80, 0x02, 0x7d, 0x71, 0x00, 0x28, 0x58, 0x05, 0, 0], reason: "pickle" },
    { what: "a PyTorch archive", bytes: Buffer.from("PK\x03\x04archive/data.pkl"), reason: "ZIP" },
    { what: "GGUF", bytes: Buffer.from("GGUF\x03\0\0\0\0\0\0\0"), reason: "GGUF" },
    { what: "text", bytes: Buffer.from("just a text, longer than a header"), reason: "something else" },
    { what: "a picture", bytes: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0], reason: "Only .safetensors" },
    { what: "a header behind the file's end", bytes: file(one, 0, 1000), reason: "header would end behind" },
    { what: "a header of 100 MB and a byte", bytes: file(one, 4, 100_000_001), reason: "at most 100000000" },
    { what: "a header of 2^64 - 1", bytes: file(one, 4, 2n ** 64n - 1n), reason: "at most 100000000" },
    { what: "a header that is not JSON", bytes: file("{not json at all}", 4), reason: "not JSON" },
    {
      what: "a header that is not UTF-8",
      bytes: file({ __metadata__: { "": "x" } }, 0).with(29, 0xff),
      reason: "not JSON",
    },
    { what: "a header cut short by its length", bytes: file(one, 4, 10), reason: "not JSON" },
    {
      what: "a header one byte too long",
      bytes: file(JSON.stringify(one), 4, JSON.stringify(one).length + 1),
      reason: "not JSON",
    },
    { what: "a missing byte of data", bytes: file(one, 3), reason: "take 4 bytes, but 3 follow" },
    { what: "a byte too many", bytes: file(one, 5), reason: "take 4 bytes, but 5 follow" },
    { what: "data without a tensor", bytes: file({}, 5), reason: "take 0 bytes, but 5 follow" },
    { what: "a hole at the beginning", bytes: file({ a: tensor("U8", [4], 1, 5) }, 5), reason: "hole" },
    { what: "a hole between", bytes: file({ ...one, b: tensor("U8", [1], 5, 6) }, 6), reason: "hole" },
    { what: "an overlap", bytes: file({ ...one, b: tensor("U8", [2], 3, 5) }, 5), reason: "overlap" },
    { what: "the same bytes twice", bytes: file({ ...one, b: tensor("U8", [4], 0, 4) }, 4), reason: "overlap" },
    { what: "an unknown dtype", bytes: file({ a: tensor("F128", [1], 0, 16) }, 16), reason: "dtype" },
    { what: "a dtype of every object", bytes: file({ a: tensor("toString", [1], 0, 1) }, 1), reason: "dtype" },
    { what: "a shape that does not fit", bytes: file({ a: tensor("F32", [2], 0, 4) }, 4), reason: "by its shape" },
    { what: "half a byte", bytes: file({ a: tensor("F4", [3], 0, 2) }, 2), reason: "by its shape" },
    {
      what: "a shape beyond all numbers",
      bytes: file({ a: tensor("F32", [2 ** 53 - 1, 2 ** 53 - 1], 0, 4) }, 4),
      reason: "by its shape",
    },
    { what: "a negative length", bytes: file({ a: tensor("U8", [-2, -2], 0, 4) }, 4), reason: "list of counts" },
    { what: "offsets backwards", bytes: file({ a: tensor("U8", [4], 4, 0) }, 4), reason: "by its offsets" },
    {
      what: "offsets that are texts",
      bytes: file({ a: { ...one.a, data_offsets: ["0", "4"] } }, 4),
      reason: "data_offsets",
    },
    { what: "three offsets", bytes: file({ a: { ...one.a, data_offsets: [0, 4, 4] } }, 4), reason: "data_offsets" },
    { what: "an unknown field", bytes: file({ a: { ...one.a, code: "x" } }, 4), reason: "unknown field" },
    { what: "a tensor that is none", bytes: file({ a: 1 }, 0), reason: "not an object" },
    { what: "metadata that is not texts", bytes: file({ __metadata__: { a: 1 } }, 0), reason: "__metadata__" },
    { what: "metadata that is a list", bytes: file({ __metadata__: ["a"] }, 0), reason: "__metadata__" },
  ])("$what", async ({ bytes, reason }) => {
    await expect(readBytes(new Uint8Array(bytes))).rejects.toMatchObject({
      code: "unsupported-media-type",
      message: expect.stringMatching(new RegExp(reason)),
    });
  });

  test("a file that is not there is the store's failure, not the caller's", async () => {
    const missing = readSafetensorsHeader(join(directory, "missing"));
    await expect(missing).rejects.toMatchObject({ code: "storage-unavailable" });
  });
});

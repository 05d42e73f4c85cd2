/** What is written into a trained model's file, and what is left as it was. */
import { expect, test } from "bun:test";
import { describeTrained, readClaims } from "../../src/storage/claims.ts";
import { inscribe } from "../../src/storage/inscribe.ts";
import { parseSafetensorsHeader } from "../../src/storage/safetensors.ts";

const data = Uint8Array.from({ length: 64 }, (_, n) => n);
const weight = { dtype: "U8", shape: [64], data_offsets: [0, 64] };

function file(header: object | string): Buffer {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

async function inscribed(bytes: Uint8Array, chunkBytes: number): Promise<Buffer> {
  async function* chunks() {
    for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
  }
  return Buffer.concat(await Array.fromAsync(inscribe(chunks(), (written) => ({ ours: "詞 \ud800", ...written }))));
}

test.each([1, 7, 8, 9, 50, 10_000])(
  "metadata is added, in chunks of %d bytes, and nothing else is changed",
  async (n) => {
    const bytes = await inscribed(file({ __metadata__: { theirs: "x" }, weight }), n);
    const end = 8 + Number(bytes.readBigUInt64LE());
    expect(end % 8).toBe(0);
    const header = bytes.subarray(8, end);
    expect(parseSafetensorsHeader(header, bytes.length - end).metadata).toEqual({ ours: "詞 \ud800", theirs: "x" });
    expect(JSON.parse(header.toString()).weight).toEqual(weight);
    expect(new Uint8Array(bytes.subarray(end))).toEqual(data);
    // As a run that is found again gives it.
    expect(await inscribed(file({ __metadata__: { theirs: "x" }, weight }), 13)).toEqual(bytes);
  },
);

test.each([
  { what: "a header without metadata", bytes: file({ weight }), isChanged: true },
  { what: "a header that is no JSON", bytes: file("{nothing"), isChanged: false },
  { what: "metadata that are no texts", bytes: file({ __metadata__: { n: 1 }, weight }), isChanged: false },
  { what: "a header cut short", bytes: file({ weight }).subarray(0, 20), isChanged: false },
  { what: "a length cut short", bytes: file({ weight }).subarray(0, 5), isChanged: false },
  { what: "a length beyond reason", bytes: Buffer.alloc(5_000, 0xff), isChanged: false },
  { what: "nothing", bytes: Buffer.alloc(0), isChanged: false },
])("$what: changed is $isChanged", async ({ bytes, isChanged }) => {
  expect((await inscribed(bytes, 11)).equals(bytes)).toBe(!isChanged);
});

const trained = {
  name: "Cuckoo",
  type: "lora",
  base_model: "SD1.5",
  trigger_words: "ohwx bird",
  resolution: 512,
  checkpoint: "v1-5.safetensors",
} as const;

test("a trained model's file says what an upload of it is read for", () => {
  expect(readClaims(describeTrained({}, trained))).toEqual({
    name: "Cuckoo",
    architecture: "stable-diffusion-v1/lora",
    base_model: "SD1.5",
    type: "lora",
    trigger_words: "ohwx bird",
  });
  const second = { ...trained, type: "ti", base_model: "SD2", checkpoint: "v2-1_768.safetensors" } as const;
  expect(readClaims(describeTrained({}, second))).toMatchObject({
    architecture: "stable-diffusion-v2-768-v/textual-inversion",
    base_model: "SD2",
    type: "ti",
  });
});

test("what the trainer wrote stays, but for the name, which is only its file's, and the trigger words", () => {
  const written = { "modelspec.title": "f00d", "modelspec.architecture": "stable-diffusion-v1/lora", ss_steps: "100" };
  expect(describeTrained(written, { ...trained, trigger_words: "" })).toMatchObject({
    ...written,
    "modelspec.title": "Cuckoo",
  });
  expect(describeTrained(written, { ...trained, trigger_words: "" })).not.toHaveProperty(["modelspec.trigger_phrase"]);
});

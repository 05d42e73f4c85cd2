/** What a file is by its first bytes: the only thing believed about it. Names and declared types prove nothing. */

export type PictureFormat = "jpeg" | "png" | "webp" | "avif";

/** As many bytes as `judgeBytes` may need: an AVIF's list of compatible brands is rarely longer. */
export const judgedBytes = 64;

/** The largest header of a safetensors file, by its specification. */
export const maxHeaderBytes = 100_000_000;

/**
 * Judges a file by its first `judgedBytes` bytes (fewer when it is shorter). Null: nothing that we take. What passes
 * here still has to be decoded.
 */
export function judgeBytes(first: Uint8Array): PictureFormat | "safetensors" | null {
  if (hasBytes(first, [0xff, 0xd8, 0xff])) return "jpeg";
  if (hasBytes(first, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])) return "png";
  if (text(first, 0, 4) === "RIFF" && text(first, 8, 12) === "WEBP") return "webp";
  if (text(first, 4, 8) === "ftyp") return isAvif(first) ? "avif" : null;
  if (first.length >= 9 && first[8] === 0x7b && headerLength(first) <= maxHeaderBytes) return "safetensors";
  return null;
}

/** The first eight bytes of a safetensors file: its header's length. Larger than 2^53 comes out merely very large. */
export function headerLength(first: Uint8Array): number {
  const view = new DataView(first.buffer, first.byteOffset, 8);
  return view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
}

/** For an answer: what a refused file seems to be, as far as its first bytes tell. */
export function describeBytes(first: Uint8Array): string {
  const known: [string, boolean][] = [
    ["a GIF", text(first, 0, 4) === "GIF8"],
    ["a ZIP archive or a PyTorch checkpoint (pickle)", text(first, 0, 2) === "PK"],
    ["a pickle, which can run code", first[0] === 0x80 && (first[1] ?? 0) <= 5],
    ["a HEIC picture or a video", text(first, 4, 8) === "ftyp"],
    ["a PDF", text(first, 0, 4) === "%PDF"],
    ["a TIFF", text(first, 0, 4) === "II*\0" || text(first, 0, 4) === "MM\0*"],
    ["a BMP", text(first, 0, 2) === "BM"],
    ["GGUF", text(first, 0, 4) === "GGUF"],
    ["SVG, XML or HTML", /^(\ufeff|\u00ef\u00bb\u00bf)?\s*</.test(text(first, 0, first.length))],
  ];
  return known.find(([, matches]) => matches)?.[0] ?? "something else";
}

/** The first box of an AVIF lists its brands: the major one, a version, then the compatible ones. */
function isAvif(first: Uint8Array): boolean {
  const boxBytes = new DataView(first.buffer, first.byteOffset, 4).getUint32(0);
  const brands = [text(first, 8, 12)];
  for (let at = 16; at + 4 <= Math.min(boxBytes, first.length); at += 4) brands.push(text(first, at, at + 4));
  return brands.includes("avif") || brands.includes("avis");
}

function hasBytes(first: Uint8Array, expected: number[]): boolean {
  return expected.every((byte, index) => first[index] === byte);
}

function text(bytes: Uint8Array, start: number, end: number): string {
  return String.fromCharCode(...bytes.subarray(start, end));
}

/** What a LoRA of this engine has learnt (a palette and a brush), and how it is kept in a `.safetensors` file. */
import { labFromLinear, linearFromLab, type Swatch } from "./color.ts";
import { hashFile } from "./files.ts";
import { createRandom } from "./random.ts";
import { readSafetensors, type Tensor, type TensorFile } from "./safetensors.ts";

/** Edge of the square patches that brushes are made of, in pixels. */
export const patchEdge = 8;
/** Numbers in one patch: red, green and blue of each pixel. */
export const patchLength = patchEdge * patchEdge * 3;

/** Patterns of light and dark, each `patchEdge` squared, strongest meaning largest `spread`. */
export interface Brush {
  patterns: Float32Array[];
  spread: number[];
}

export interface Style {
  /** Tells styles apart: the hash of the file. Enters the picture's randomness. */
  hash: string;
  palette: Swatch[];
  brush: Brush;
  /** Words of the captions: a prompt that names them shows the style more strongly. */
  words: Set<string>;
}

/** The low-rank fit as trained: `up` x `down` maps a patch to its reconstruction. */
export interface Factors {
  rank: number;
  /** rank x patchLength. */
  down: Float32Array;
  /** patchLength x rank. */
  up: Float32Array;
  /** Standard deviation of each feature over the training patches. */
  spread: Float32Array;
}

const factorName = "lora_unet_demo";

/** Puts palette and factors into tensors. `dtype` is for the factors; the palette is small and stays exact. */
export function styleToFile(
  palette: Swatch[],
  factors: Factors,
  dtype: Tensor["dtype"],
  metadata: Record<string, string>,
): TensorFile {
  const { rank, down, up, spread } = factors;
  const colors = palette.flatMap((swatch) => linearFromLab(swatch.color));
  const shares = palette.map((swatch) => swatch.share);
  const tensors = new Map<string, Tensor>([
    [`${factorName}.alpha`, { dtype, shape: [], values: Float32Array.of(rank) }],
    [`${factorName}.lora_down.weight`, { dtype, shape: [rank, patchLength], values: down }],
    [`${factorName}.lora_up.weight`, { dtype, shape: [patchLength, rank], values: up }],
    ["demo.palette", { dtype: "F32", shape: [palette.length, 3], values: Float32Array.from(colors) }],
    ["demo.palette_share", { dtype: "F32", shape: [palette.length], values: Float32Array.from(shares) }],
    ["demo.spread", { dtype: "F32", shape: [rank], values: spread }],
  ]);
  return { tensors, metadata };
}

/** Understands a file written by `styleToFile`; `hash` is the sha256 of its bytes. */
export function styleFromFile(file: TensorFile, hash: string): Style {
  const colors = file.tensors.get("demo.palette")?.values;
  const shares = file.tensors.get("demo.palette_share")?.values;
  const up = file.tensors.get(`${factorName}.lora_up.weight`);
  const spread = file.tensors.get("demo.spread")?.values;
  if (colors === undefined || shares === undefined || up === undefined || spread === undefined) return foreign(hash);
  const palette = Array.from(shares, (share, i) => ({
    color: labFromLinear(colors[i * 3] ?? 0, colors[i * 3 + 1] ?? 0, colors[i * 3 + 2] ?? 0),
    share,
  }));
  const words = new Set((file.metadata.demo_words ?? "").split(" ").filter((word) => word !== ""));
  return { hash, palette, brush: brushFrom(up, spread), words };
}

/**
 * Reads a LoRA file. One that was trained elsewhere holds nothing that can be drawn with here, so it gets a palette
 * made up from its hash: it still changes the picture, always in the same way.
 *
 * @throws PythonError when the file is not safetensors
 */
export async function loadStyle(path: string): Promise<Style> {
  const wanted = (name: string) => name.startsWith("demo.") || name.startsWith(`${factorName}.`);
  const file = await readSafetensors(path, wanted);
  return styleFromFile(file, await hashFile(path));
}

/** The words of a text that carry meaning, in lower case. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [];
}

function foreign(hash: string): Style {
  const random = createRandom(`foreign style ${hash}`);
  const hue = random() * 2 * Math.PI;
  const palette = Array.from({ length: 6 }, (_, i) => {
    const angle = hue + random() * 1.6;
    const vivid = 0.06 + 0.1 * random();
    return { color: [0.18 + 0.15 * i, Math.cos(angle) * vivid, Math.sin(angle) * vivid] as const, share: 1 / 6 };
  });
  return { hash, palette, brush: { patterns: [], spread: [] }, words: new Set() };
}

function brushFrom(up: Tensor, spread: Float32Array): Brush {
  const rank = spread.length;
  const size = patchEdge * patchEdge;
  const features = Array.from({ length: rank }, (_, feature) => {
    const pattern = new Float32Array(size);
    for (let i = 0; i < size; i++) {
      for (let channel = 0; channel < 3; channel++) {
        pattern[i] = (pattern[i] as number) + (up.values[(i * 3 + channel) * rank + feature] ?? 0) / 3;
      }
    }
    const length = Math.hypot(...pattern);
    return { pattern: pattern.map((value) => value / (length || 1)), spread: (spread[feature] ?? 0) * length };
  });
  // Four show the character of a texture; more only cost time.
  const strongest = features.sort((x, y) => y.spread - x.spread).slice(0, 4);
  return { patterns: strongest.map(({ pattern }) => pattern), spread: strongest.map((feature) => feature.spread) };
}

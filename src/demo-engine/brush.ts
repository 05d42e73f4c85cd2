/** Brush strokes: the texture that styles have learnt, laid over a picture. */
import { createPace } from "./pace.ts";
import { createNoise, type Random } from "./random.ts";
import { patchEdge } from "./style.ts";
import type { AppliedStyle } from "./values.ts";

/** The brush strokes of the applied styles, laid over the picture in overlapping soft patches. */
export class Texture {
  private constructor(
    private readonly width: number,
    private readonly values: Float32Array,
  ) {}

  /** Null when no style has a brush, or all are applied with no strength. */
  static async of(styles: AppliedStyle[], random: Random, width: number, height: number): Promise<Texture | null> {
    const brushes = styles.filter(({ style, strength }) => strength !== 0 && style.brush.patterns.length > 0);
    if (brushes.length === 0) return null;
    const values = new Float32Array(width * height);
    const noise = createNoise(random);
    const pace = createPace();
    const cell = Math.max(1, Math.round(Math.min(width, height) / 170));
    const edge = patchEdge * cell;
    const stride = Math.max(1, edge >> 1);
    // Hann windows at half their width add up to one: no seams.
    const window = Float32Array.from(
      { length: edge },
      (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 0.5)) / edge),
    );
    for (const { style, strength } of brushes) {
      const strongest = Math.max(...style.brush.spread) || 1;
      const gains = style.brush.spread.map(
        (spread) => (spread / strongest) * Math.max(-2, Math.min(2, strength)) * 0.3,
      );
      for (let top = -stride; top < height; top += stride) {
        await pace();
        for (let left = -stride; left < width; left += stride) {
          const pattern = new Float32Array(patchEdge * patchEdge);
          style.brush.patterns.forEach((feature, r) => {
            // Neighbouring patches have similar strokes, so they run on into each other.
            const amount = noise(left / (edge * 2.7) + r * 31, top / (edge * 2.7)) * (gains[r] ?? 0);
            for (let i = 0; i < pattern.length; i++)
              pattern[i] = (pattern[i] as number) + amount * (feature[i] as number);
          });
          const rowEnd = Math.min(edge, height - top);
          const columnEnd = Math.min(edge, width - left);
          for (let y = Math.max(0, -top); y < rowEnd; y++) {
            for (let x = Math.max(0, -left); x < columnEnd; x++) {
              const at = (top + y) * width + left + x;
              const value = bilinear(pattern, (x + 0.5) / cell - 0.5, (y + 0.5) / cell - 0.5);
              values[at] = (values[at] as number) + value * (window[x] as number) * (window[y] as number);
            }
          }
        }
      }
    }
    return new Texture(width, values);
  }

  at(x: number, y: number): number {
    return this.values[y * this.width + x] as number;
  }
}

function bilinear(pattern: Float32Array, x: number, y: number): number {
  const last = patchEdge - 1;
  const x0 = Math.max(0, Math.min(last, Math.floor(x)));
  const y0 = Math.max(0, Math.min(last, Math.floor(y)));
  const x1 = Math.min(last, x0 + 1);
  const y1 = Math.min(last, y0 + 1);
  const fx = Math.max(0, Math.min(1, x - x0));
  const fy = Math.max(0, Math.min(1, y - y0));
  const read = (column: number, row: number) => pattern[row * patchEdge + column] as number;
  const upper = read(x0, y0) + (read(x1, y0) - read(x0, y0)) * fx;
  const lower = read(x0, y1) + (read(x1, y1) - read(x0, y1)) * fx;
  return upper + (lower - upper) * fy;
}

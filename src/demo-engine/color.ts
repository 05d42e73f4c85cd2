/** Colours in OKLab, where mixing and measuring distance agree with the eye, and ramps made of palettes. */

/** OKLab: lightness 0 to 1, then the two colour axes. */
export type Lab = readonly [lightness: number, a: number, b: number];

/** One colour of a palette and its share, 0 to 1; without a share it can only be the accent. */
export interface Swatch {
  color: Lab;
  share: number;
}

const toLinear = (value: number) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const toGamma = (value: number) => (value <= 0.0031308 ? value * 12.92 : 1.055 * value ** (1 / 2.4) - 0.055);

const linearOfByte = Float32Array.from({ length: 256 }, (_, byte) => toLinear(byte / 255));
/** Linear light in 4096 steps to a byte: finer than the eye in the shadows, and no power per pixel. */
const byteOfLinear = Uint8Array.from({ length: 4097 }, (_, i) => Math.round(toGamma(i / 4096) * 255));

/** A byte of sRGB as linear light, 0 to 1. */
export function linearFromByte(byte: number): number {
  return linearOfByte[byte] as number;
}

/** Linear light as a byte of sRGB; clamps. */
export function byteFromLinear(value: number): number {
  return byteOfLinear[value <= 0 ? 0 : value >= 1 ? 4096 : (value * 4096 + 0.5) | 0] as number;
}

/** Linear RGB to OKLab. @see https://bottosson.github.io/posts/oklab/ */
export function labFromLinear(r: number, g: number, b: number): Lab {
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

/** OKLab to linear RGB; may leave 0 to 1 for colours that no screen shows. */
export function linearFromLab([lightness, a, b]: Lab): [number, number, number] {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

export function mixLab(from: Lab, to: Lab, share: number): Lab {
  return [
    from[0] + (to[0] - from[0]) * share,
    from[1] + (to[1] - from[1]) * share,
    from[2] + (to[2] - from[2]) * share,
  ];
}

/** How colourful: the distance from grey. */
export function chroma(color: Lab): number {
  return Math.hypot(color[1], color[2]);
}

/** Steps of a ramp's table: more than a byte can tell apart. */
const rampSteps = 1024;

/** A palette as one line from dark to light, tabulated in linear RGB. */
export class Ramp {
  private readonly table = new Float32Array((rampSteps + 1) * 3);
  /** The most colourful swatch: for suns, hearts of flowers, anything that should stand out. */
  readonly accent: [number, number, number];

  /** @param swatches in any order, at least one with a share */
  constructor(swatches: readonly Swatch[]) {
    const sorted = swatches.filter(({ share }) => share > 0).sort((x, y) => x.color[0] - y.color[0]);
    const total = sorted.reduce((sum, swatch) => sum + swatch.share, 0) || 1;
    // A swatch sits at the middle of its share; half of the way is even spacing, so that a rare colour still shows.
    let before = 0;
    const stops = sorted.map((swatch, i) => {
      const byShare = (before + swatch.share / 2) / total;
      before += swatch.share;
      const even = sorted.length === 1 ? 0.5 : i / (sorted.length - 1);
      return { at: 0.35 * byShare + 0.65 * even, color: swatch.color };
    });
    let next = 0;
    for (let i = 0; i <= rampSteps; i++) {
      const at = i / rampSteps;
      while (next < stops.length && (stops[next]?.at ?? 1) < at) next++;
      const above = stops[Math.min(next, stops.length - 1)];
      const below = stops[Math.max(0, next - 1)];
      if (above === undefined || below === undefined) break;
      const span = above.at - below.at;
      const share = span > 0 ? Math.min(1, Math.max(0, (at - below.at) / span)) : 0;
      this.table.set(linearFromLab(mixLab(below.color, above.color, share * share * (3 - 2 * share))), i * 3);
    }
    const vivid = [...swatches].sort((x, y) => chroma(y.color) + y.color[0] / 5 - chroma(x.color) - x.color[0] / 5)[0];
    this.accent = linearFromLab(vivid?.color ?? [0.8, 0, 0]);
  }

  /** Writes the colour at `tone` (0 dark to 1 light, clamped) as linear RGB into `out`. */
  read(tone: number, out: Float32Array): void {
    const at = (tone <= 0 ? 0 : tone >= 1 ? rampSteps : (tone * rampSteps) | 0) * 3;
    out[0] = this.table[at] as number;
    out[1] = this.table[at + 1] as number;
    out[2] = this.table[at + 2] as number;
  }
}

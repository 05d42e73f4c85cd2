/**
 * Drawing: a scene laid out by the seed, coloured by the prompt's palette or a LoRA's. Everything is a function of
 * the request, so equal requests give equal bytes; nothing of it comes from a diffusion model.
 */
import { byteFromLinear, labFromLinear, linearFromByte, mixLab, Ramp, type Swatch } from "./color.ts";
import { stampMark } from "./mark.ts";
import { createPace } from "./pace.ts";
import type { Picture } from "./picture.ts";
import { createNoise, createRandom } from "./random.ts";
import { createScene, type Sample, type Scene } from "./scenes.ts";
import { patchEdge, wordsOf } from "./style.ts";
import type { AppliedStyle } from "./values.ts";

export interface DrawRequest {
  checkpoint: string;
  prompt: string;
  negativePrompt: string;
  clipSkip: number;
  seed: number;
  /** Number within the batch, from 0. */
  index: number;
  width: number;
  height: number;
  steps: number;
  cfg: number;
  sampler: string;
  scheduler: string;
  /** 1 draws anew; less keeps that much of `source`. */
  denoise: number;
  styles: AppliedStyle[];
  /** A picture of exactly the asked size to start from, or null. */
  source: Picture | null;
}

/** Awaited after each step, from 1; `preview` gives a small picture of the state. May throw to end the drawing. */
export type OnStep = (step: number, preview: () => Picture) => Promise<void>;

/** Draws one picture over `steps` steps of about equal work. */
export async function draw(request: DrawRequest, onStep: OnStep): Promise<Picture> {
  const { width, height, steps } = request;
  const canvas = new Canvas(request);
  const pace = createPace();
  const rows = height * 2;
  let row = 0;
  for (let step = 1; step <= steps; step++) {
    const end = Math.round((rows * step) / steps);
    for (; row < end; row++) {
      // First every row's shapes, then the colours: lighting needs the rows above and below.
      if (row < height) canvas.shapeRow(row);
      else canvas.colorRow(row - height);
      await pace();
    }
    await onStep(step, () => canvas.preview(step / steps));
  }
  const picture = { width, height, data: canvas.data };
  stampMark(picture);
  return picture;
}

/** Previews are this much smaller than the picture, as latents are. */
const previewScale = 8;

class Canvas {
  readonly data: Uint8Array;
  private readonly width: number;
  private readonly height: number;
  private readonly unit: number;
  private readonly scene: Scene;
  private readonly ramp: Ramp;
  private readonly accent: [number, number, number];
  private readonly tone: Float32Array;
  private readonly relief: Float32Array;
  private readonly glow: Float32Array;
  private readonly grain: Float32Array;
  private readonly contrast: number;
  private readonly light: readonly [number, number];
  private readonly brush: Texture | null;
  private readonly denoise: number;
  private readonly source: Picture | null;
  private small: Canvas | null = null;
  private readonly sample: Sample = { tone: 0, height: 0, glow: 0 };
  private readonly color = new Float32Array(3);

  constructor(private readonly request: DrawRequest) {
    const { width, height, steps, cfg, prompt, styles } = request;
    this.width = width;
    this.height = height;
    this.unit = Math.min(width, height);
    const layout = createRandom(layoutKey(request));
    this.scene = createScene(prompt, {
      width: width / this.unit,
      height: height / this.unit,
      random: layout,
      // More steps, more detail, with less and less to gain: half of it is there at 12 steps.
      detail: steps / (steps + 12),
      bend: 0.7 + 0.5 * layout() + Math.min(cfg, 30) / 40,
    });
    const palette = styles.reduce((mixed, style) => applyStyle(mixed, style, prompt), basePalette(request));
    this.ramp = new Ramp(palette);
    this.accent = this.ramp.accent;
    this.contrast = 0.72 + 0.05 * Math.min(cfg, 20);
    const angle = layout() * 2 * Math.PI;
    this.light = [Math.cos(angle), -Math.abs(Math.sin(angle)) - 0.35];
    this.brush = Texture.of(styles, createRandom(`brush ${layoutKey(request)}`), width, height);
    this.denoise = request.source === null ? 1 : request.denoise;
    this.source = request.source;
    const size = width * height;
    this.tone = new Float32Array(size);
    this.relief = new Float32Array(size);
    this.glow = new Float32Array(size);
    this.data = new Uint8Array(size * 3);
    // One row of fine grain, read from changing places, breaks the banding of smooth gradients.
    const grain = createRandom(`grain ${layoutKey(request)} ${steps} ${cfg}`);
    this.grain = Float32Array.from({ length: 4093 }, () => grain() - 0.5);
  }

  shapeRow(y: number): void {
    const { sample, unit, width } = this;
    for (let x = 0; x < width; x++) {
      this.scene((x + 0.5) / unit, (y + 0.5) / unit, sample);
      const at = y * width + x;
      this.tone[at] = sample.tone;
      this.relief[at] = sample.height;
      this.glow[at] = sample.glow;
    }
  }

  colorRow(y: number): void {
    const { width, height, color, accent, denoise, source } = this;
    const above = Math.max(0, y - 1) * width;
    const below = Math.min(height - 1, y + 1) * width;
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const left = this.relief[y * width + Math.max(0, x - 1)] as number;
      const right = this.relief[y * width + Math.min(width - 1, x + 1)] as number;
      const slopeX = (right - left) * this.unit * 0.5;
      const slopeY = ((this.relief[below + x] as number) - (this.relief[above + x] as number)) * this.unit * 0.5;
      const facing = (slopeX * this.light[0] + slopeY * this.light[1]) / Math.sqrt(1 + slopeX ** 2 + slopeY ** 2);
      const shade = 1 - facing * 0.42;
      const shine = facing < -0.5 ? (-facing - 0.5) * 0.7 : 0;

      const dx = ((x + 0.5) / width - 0.5) * 1.05;
      const dy = ((y + 0.5) / height - 0.5) * 1.05;
      const vignette = 1 - 0.75 * (dx * dx + dy * dy);

      let tone = 0.5 + ((this.tone[at] as number) - 0.5) * this.contrast;
      if (this.brush !== null) tone += this.brush.at(x, y);
      tone += (this.grain[(at + y * 97) % 4093] as number) * 0.035;
      if (source !== null) tone = denoise * tone + (1 - denoise) * sourceTone(source, at);
      this.ramp.read(tone, color);

      const glow = this.glow[at] as number;
      for (let channel = 0; channel < 3; channel++) {
        const base = (color[channel] as number) * (1 - glow) + (accent[channel] as number) * (1 + tone * 0.5) * glow;
        let value = (base * shade + shine * (0.02 + base)) * vignette;
        if (source !== null) {
          // Squared: a low strength leaves the source's own colours nearly alone, as a real img2img does.
          const kept = (1 - denoise) ** 0.8;
          value = kept * linearFromByte(source.data[at * 3 + channel] as number) + (1 - kept) * value;
        }
        this.data[at * 3 + channel] = byteFromLinear(value);
      }
    }
  }

  /** The state after the share `done` of the steps: a small version of the picture coming out of noise. */
  preview(done: number): Picture {
    const small = this.smallCanvas();
    const random = createRandom(`preview ${layoutKey(this.request)} ${done}`);
    const clear = done * done * (3 - 2 * done);
    const data = Uint8Array.from(small.data, (value) => value * clear + (1 - clear) * (64 + 128 * random()));
    return { width: small.width, height: small.height, data };
  }

  private smallCanvas(): Canvas {
    if (this.small !== null) return this.small;
    const width = Math.max(1, Math.round(this.width / previewScale));
    const height = Math.max(1, Math.round(this.height / previewScale));
    const { source } = this;
    const canvas = new Canvas({
      ...this.request,
      width,
      height,
      source: source === null ? null : shrinkTo(source, width, height),
    });
    for (let y = 0; y < height; y++) canvas.shapeRow(y);
    for (let y = 0; y < height; y++) canvas.colorRow(y);
    this.small = canvas;
    return canvas;
  }
}

/**
 * The name of the random stream that lays out the picture. Size, steps and cfg are left out: they change how the
 * picture is drawn, not what it shows.
 */
function layoutKey(request: DrawRequest): string {
  const { checkpoint, prompt, negativePrompt, clipSkip, seed, index, sampler, scheduler, styles } = request;
  const applied = styles.map(({ style, strength }) => [style.hash, strength]);
  return JSON.stringify([checkpoint, prompt, negativePrompt, clipSkip, seed, index, sampler, scheduler, applied]);
}

/** A palette out of the prompt alone: one family of hues, and an accent across the wheel. */
function basePalette({ prompt, checkpoint }: DrawRequest): Swatch[] {
  const random = createRandom(`palette ${checkpoint} ${prompt}`);
  const hue = random() * 2 * Math.PI;
  const drift = (0.5 + random() * 0.9) * (random() < 0.5 ? -1 : 1);
  const swatches = Array.from({ length: 5 }, (_, i): Swatch => {
    const angle = hue + (drift * i) / 4;
    const vivid = [0.05, 0.095, 0.11, 0.085, 0.04][i] ?? 0.1;
    return { color: [0.17 + i * 0.19, Math.cos(angle) * vivid, Math.sin(angle) * vivid], share: 0.2 };
  });
  const across = hue + Math.PI * (0.85 + random() * 0.3);
  swatches.push({ color: [0.74, Math.cos(across) * 0.15, Math.sin(across) * 0.15], share: 0 });
  return swatches;
}

/** Moves a palette towards a style's; a negative strength moves it away. */
function applyStyle(palette: Swatch[], { style, strength }: AppliedStyle, prompt: string): Swatch[] {
  if (strength === 0) return palette;
  const named = wordsOf(prompt).some((word) => style.words.has(word));
  const share = Math.max(-1, Math.min(1, strength * (named ? 1 : 0.9)));
  const ordered = [...style.palette].sort((x, y) => x.color[0] - y.color[0]);
  const stretched = stretchLightness(ordered);
  return [...palette]
    .sort((x, y) => x.color[0] - y.color[0])
    .map((swatch, i) => {
      const other = stretched[Math.round((i * (stretched.length - 1)) / Math.max(1, palette.length - 1))] ?? swatch;
      return {
        color: mixLab(swatch.color, other.color, share),
        share: swatch.share + (other.share - swatch.share) * Math.abs(share),
      };
    });
}

/** Pictures of one flat lightness would give flat drawings: the darkest and the lightest are pulled apart a little. */
function stretchLightness(palette: Swatch[]): Swatch[] {
  const low = palette[0]?.color[0] ?? 0;
  const span = (palette.at(-1)?.color[0] ?? 1) - low;
  const wanted = Math.max(span, 0.55);
  const start = Math.max(0.06, Math.min(low, 0.95 - wanted) - (wanted - span) * 0.3);
  return palette.map(({ color, share }, i) => {
    const place = span > 0.02 ? (color[0] - low) / span : i / Math.max(1, palette.length - 1);
    return { color: [start + place * wanted, color[1], color[2]], share };
  });
}

function sourceTone(source: Picture, at: number): number {
  const channel = (i: number) => linearFromByte(source.data[at * 3 + i] as number);
  return labFromLinear(channel(0), channel(1), channel(2))[0];
}

function shrinkTo(source: Picture, width: number, height: number): Picture {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const fromX = Math.floor(((x + 0.5) * source.width) / width);
      const fromY = Math.floor(((y + 0.5) * source.height) / height);
      const from = (fromY * source.width + fromX) * 3;
      data.set(source.data.subarray(from, from + 3), (y * width + x) * 3);
    }
  }
  return { width, height, data };
}

/** The brush strokes of the applied styles, laid over the picture in overlapping soft patches. */
class Texture {
  private constructor(
    private readonly width: number,
    private readonly values: Float32Array,
  ) {}

  /** Null when no style has a brush, or all are applied with no strength. */
  static of(styles: AppliedStyle[], random: () => number, width: number, height: number): Texture | null {
    const brushes = styles.filter(({ style, strength }) => strength !== 0 && style.brush.patterns.length > 0);
    if (brushes.length === 0) return null;
    const values = new Float32Array(width * height);
    const noise = createNoise(random);
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

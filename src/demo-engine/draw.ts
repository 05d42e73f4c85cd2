/**
 * Drawing: a scene laid out by the seed, coloured by the prompt's palette or a LoRA's. Everything is a function of
 * the request, so equal requests give equal bytes; nothing of it comes from a diffusion model.
 */

import { Texture } from "./brush.ts";
import { byteFromLinear, labFromLinear, linearFromByte, Ramp } from "./color.ts";
import { stampMark } from "./mark.ts";
import { createPace } from "./pace.ts";
import { applyStyle, basePalette } from "./palette.ts";
import type { Picture } from "./picture.ts";
import { createRandom } from "./random.ts";
import { createScene, type Sample, type Scene } from "./scenes.ts";
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
  const canvas = await Canvas.create(request);
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

/** One colour, of the request's seed and words, in the time that it takes to tell the steps. */
export async function fill(request: DrawRequest, onStep: OnStep): Promise<Picture> {
  const { width, height, steps, seed, index, prompt } = request;
  const random = createRandom(`fill ${seed} ${index} ${prompt}`);
  const color = [0, 1, 2].map(() => Math.floor(random() * 256));
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => color[i % 3] as number);
  for (let step = 1; step <= steps; step++) await onStep(step, () => ({ width: 1, height: 1, data: data.slice(0, 3) }));
  return { width, height, data };
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
  private readonly denoise: number;
  private readonly source: Picture | null;
  private readonly sample: Sample = { tone: 0, height: 0, glow: 0 };
  private readonly color = new Float32Array(3);

  /** A canvas with nothing on it yet, but with the small version that previews are made of. */
  static async create(request: DrawRequest): Promise<Canvas> {
    const { width, height, source } = request;
    const edge = (length: number) => Math.max(1, Math.round(length / previewScale));
    const small = { width: edge(width), height: edge(height) };
    const shrunk = source === null ? null : shrinkTo(source, small.width, small.height);
    const canvas = await Canvas.blank({ ...request, ...small, source: shrunk }, null);
    const pace = createPace();
    for (let y = 0; y < small.height; y++) {
      canvas.shapeRow(y);
      await pace();
    }
    for (let y = 0; y < small.height; y++) {
      canvas.colorRow(y);
      await pace();
    }
    return Canvas.blank(request, canvas);
  }

  private static async blank(request: DrawRequest, small: Canvas | null): Promise<Canvas> {
    const random = createRandom(`brush ${layoutKey(request)}`);
    return new Canvas(request, await Texture.of(request.styles, random, request.width, request.height), small);
  }

  private constructor(
    private readonly request: DrawRequest,
    private readonly brush: Texture | null,
    private readonly small: Canvas | null,
  ) {
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
    const palette = styles.reduce(
      (mixed, style) => applyStyle(mixed, style, prompt),
      basePalette(request.checkpoint, prompt),
    );
    this.ramp = new Ramp(palette);
    this.accent = this.ramp.accent;
    this.contrast = 0.72 + 0.05 * Math.min(cfg, 20);
    const angle = layout() * 2 * Math.PI;
    this.light = [Math.cos(angle), -Math.abs(Math.sin(angle)) - 0.35];
    this.denoise = request.source === null ? 1 : request.denoise;
    this.source = request.source;
    const size = width * height;
    this.tone = new Float32Array(size);
    this.relief = new Float32Array(size);
    this.glow = new Float32Array(size);
    this.data = new Uint8Array(size * 3);
    // One row of fine grain, read from changing places, breaks the banding of smooth gradients.
    const applied = styles.map(({ style, strength }) => `${style.hash} ${strength}`);
    const grain = createRandom(`grain ${layoutKey(request)} ${steps} ${cfg} ${applied}`);
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
    const small = this.small ?? this;
    const random = createRandom(`preview ${layoutKey(this.request)} ${done}`);
    const clear = done * done * (3 - 2 * done);
    const data = Uint8Array.from(small.data, (value) => value * clear + (1 - clear) * (64 + 128 * random()));
    return { width: small.width, height: small.height, data };
  }
}

/**
 * The name of the random stream that lays out the picture. Size, steps, cfg and styles are left out: they change how
 * the picture is drawn, not what it shows, so that somebody can compare.
 */
function layoutKey(request: DrawRequest): string {
  const { checkpoint, prompt, negativePrompt, clipSkip, seed, index, sampler, scheduler } = request;
  return JSON.stringify([checkpoint, prompt, negativePrompt, clipSkip, seed, index, sampler, scheduler]);
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

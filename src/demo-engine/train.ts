/**
 * Training: fits a palette (mini-batch k-means) and a low-rank map of patches (the LoRA's up and down factors, by
 * Adam) to the pictures. Tiny beside a real one, but it is a fit: the loss falls and the result depends on the data.
 */
import { labFromLinear, linearFromByte, type Swatch } from "./color.ts";
import { createPace } from "./pace.ts";
import { type Picture, resizePicture } from "./picture.ts";
import { createRandom, gaussian, type Random } from "./random.ts";
import { type Factors, patchEdge, patchLength } from "./style.ts";

export interface TrainingOptions {
  steps: number;
  rank: number;
  learningRate: number;
  batchSize: number;
  seed: number;
}

export interface TrainingResult {
  palette: Swatch[];
  factors: Factors;
  /** Mean squared error of each step's batch. */
  losses: number[];
}

const paletteSize = 6;
const patchesPerPicture = 24;
const pixelsPerStep = 256;
/** Rates meant for a network of millions of weights would not move this one in a few hundred steps. */
const rateScale = 30;
/** Pictures are looked at this small: patches then hold shapes rather than grain. */
const workingEdge = 128;

/**
 * Trains on `pictures` (at least one).
 *
 * @param onStep awaited after each optimiser step, with its number from 1; may throw to end the training
 */
export async function train(
  pictures: Picture[],
  options: TrainingOptions,
  onStep: (step: number, loss: number) => Promise<void>,
): Promise<TrainingResult> {
  const random = createRandom(`train ${options.seed} ${options.rank} ${pictures.length}`);
  const small = await Promise.all(pictures.map(shrink));
  const palette = new PaletteFit(small, random);
  const patches = new PatchFit(options.rank, options.learningRate * rateScale, random);
  const losses: number[] = [];
  const pace = createPace();
  // A real batch of many pictures costs many times one; here it need only matter.
  const batch = Math.min(options.batchSize, 4) * patchesPerPicture;
  for (let step = 1; step <= options.steps; step++) {
    palette.step();
    const loss = patches.step(Array.from({ length: batch }, () => randomPatch(small, random)));
    losses.push(loss);
    await pace();
    await onStep(step, loss);
  }
  return { palette: palette.result(), factors: patches.result(small, random), losses };
}

async function shrink(picture: Picture): Promise<Picture> {
  const scale = Math.max(workingEdge / Math.min(picture.width, picture.height), patchEdge / workingEdge);
  if (scale >= 1 && Math.min(picture.width, picture.height) >= patchEdge) return picture;
  const edge = (length: number) => Math.max(patchEdge, Math.min(1024, Math.round(length * scale)));
  return resizePicture(picture, edge(picture.width), edge(picture.height), "stretch", "bilinear");
}

function pick<Item>(items: readonly Item[], random: Random): Item {
  return items[Math.floor(random() * items.length)] as Item;
}

/** A random patch as values of about -0.5 to 0.5, without its mean colour: that is the palette's part. */
function randomPatch(pictures: Picture[], random: Random): Float32Array {
  const picture = pick(pictures, random);
  const left = Math.floor(random() * (picture.width - patchEdge + 1));
  const top = Math.floor(random() * (picture.height - patchEdge + 1));
  const patch = new Float32Array(patchLength);
  const mean = [0, 0, 0];
  for (let i = 0; i < patchLength; i++) {
    const pixel = Math.floor(i / 3);
    const row = top + Math.floor(pixel / patchEdge);
    const at = (row * picture.width + left + (pixel % patchEdge)) * 3 + (i % 3);
    patch[i] = (picture.data[at] as number) / 255;
    mean[i % 3] = (mean[i % 3] as number) + ((patch[i] as number) * 3) / patchLength;
  }
  for (let i = 0; i < patchLength; i++) patch[i] = (patch[i] as number) - (mean[i % 3] as number);
  return patch;
}

/** Mini-batch k-means in OKLab. @see Sculley, "Web-scale k-means clustering", 2010 */
class PaletteFit {
  private readonly centers: [number, number, number][];
  private readonly counts: number[];

  constructor(
    private readonly pictures: Picture[],
    private readonly random: Random,
  ) {
    // k-means++: each next centre is drawn by its squared distance from those before.
    const sample = Array.from({ length: 512 }, () => this.pixel());
    this.centers = [[...pick(sample, random)]];
    while (this.centers.length < paletteSize) {
      const distances = sample.map((pixel) => this.nearest(pixel).distance);
      let left = random() * distances.reduce((sum, distance) => sum + distance, 0);
      const index = distances.findIndex((distance) => {
        left -= distance;
        return left <= 0;
      });
      this.centers.push([...(sample[Math.max(0, index)] as [number, number, number])]);
    }
    this.counts = this.centers.map(() => 1);
  }

  step(): void {
    for (let i = 0; i < pixelsPerStep; i++) {
      const pixel = this.pixel();
      const { index } = this.nearest(pixel);
      const count = (this.counts[index] ?? 0) + 1;
      this.counts[index] = count;
      const center = this.centers[index] as [number, number, number];
      for (let axis = 0; axis < 3; axis++) {
        center[axis] = (center[axis] as number) + ((pixel[axis] as number) - (center[axis] as number)) / count;
      }
    }
  }

  result(): Swatch[] {
    const total = this.counts.reduce((sum, count) => sum + count, 0);
    return this.centers.map((color, i) => ({ color, share: (this.counts[i] ?? 0) / total }));
  }

  private pixel(): [number, number, number] {
    const picture = pick(this.pictures, this.random);
    const at = Math.floor(this.random() * picture.width * picture.height) * 3;
    const channel = (i: number) => linearFromByte(picture.data[at + i] as number);
    return [...labFromLinear(channel(0), channel(1), channel(2))];
  }

  private nearest(pixel: readonly [number, number, number]): { index: number; distance: number } {
    let best = { index: 0, distance: Number.POSITIVE_INFINITY };
    this.centers.forEach((center, index) => {
      // Hue counts more than lightness, or photographs end up with six greys.
      const distance = (pixel[0] - center[0]) ** 2 + 4 * (pixel[1] - center[1]) ** 2 + 4 * (pixel[2] - center[2]) ** 2;
      if (distance < best.distance) best = { index, distance };
    });
    return best;
  }
}

/** Reconstructs patches through `rank` numbers: a linear autoencoder, which converges to the principal components. */
class PatchFit {
  private readonly down: Adam;
  private readonly up: Adam;

  constructor(
    private readonly rank: number,
    rate: number,
    random: Random,
  ) {
    const size = rank * patchLength;
    this.down = new Adam(
      Float32Array.from({ length: size }, () => gaussian(random) / Math.sqrt(patchLength)),
      rate,
    );
    // Up starts at zero, as in every LoRA: an untrained one changes nothing.
    this.up = new Adam(new Float32Array(size), rate);
  }

  /** One optimiser step; returns the mean squared error before it. */
  step(patches: Float32Array[]): number {
    const { rank } = this;
    const down = this.down.weights;
    const up = this.up.weights;
    const downGradient = new Float32Array(down.length);
    const upGradient = new Float32Array(up.length);
    const scale = 2 / patches.length;
    let loss = 0;
    for (const patch of patches) {
      const code = this.encode(patch);
      const back = new Float32Array(rank);
      for (let i = 0; i < patchLength; i++) {
        let error = -(patch[i] as number);
        for (let r = 0; r < rank; r++) error += (up[i * rank + r] as number) * (code[r] as number);
        loss += error * error;
        for (let r = 0; r < rank; r++) {
          back[r] = (back[r] as number) + error * (up[i * rank + r] as number);
          upGradient[i * rank + r] = (upGradient[i * rank + r] as number) + scale * error * (code[r] as number);
        }
      }
      for (let r = 0; r < rank; r++) {
        const slope = scale * (back[r] as number);
        for (let i = 0; i < patchLength; i++) {
          const at = r * patchLength + i;
          downGradient[at] = (downGradient[at] as number) + slope * (patch[i] as number);
        }
      }
    }
    this.down.step(downGradient);
    this.up.step(upGradient);
    return loss / (patches.length * patchLength);
  }

  result(pictures: Picture[], random: Random): Factors {
    const samples = 256;
    const spread = new Float32Array(this.rank);
    for (let i = 0; i < samples; i++) {
      this.encode(randomPatch(pictures, random)).forEach((value, r) => {
        spread[r] = (spread[r] as number) + (value * value) / samples;
      });
    }
    return { rank: this.rank, down: this.down.weights, up: this.up.weights, spread: spread.map(Math.sqrt) };
  }

  private encode(patch: Float32Array): Float32Array {
    const code = new Float32Array(this.rank);
    for (let r = 0; r < this.rank; r++) {
      let sum = 0;
      for (let i = 0; i < patchLength; i++) {
        sum += (this.down.weights[r * patchLength + i] as number) * (patch[i] as number);
      }
      code[r] = sum;
    }
    return code;
  }
}

/** The one optimiser here, whichever the graph names. @see Kingma and Ba, "Adam", 2015 */
class Adam {
  private readonly mean: Float32Array;
  private readonly square: Float32Array;
  private steps = 0;

  constructor(
    readonly weights: Float32Array,
    private readonly rate: number,
  ) {
    this.mean = new Float32Array(weights.length);
    this.square = new Float32Array(weights.length);
  }

  step(gradient: Float32Array): void {
    this.steps++;
    // Beyond this the fit jumps about instead of settling.
    const rate = Math.min(this.rate, 0.05) / (1 - 0.9 ** this.steps);
    const correction = 1 - 0.999 ** this.steps;
    for (let i = 0; i < gradient.length; i++) {
      const slope = gradient[i] as number;
      const mean = 0.9 * (this.mean[i] as number) + 0.1 * slope;
      const square = 0.999 * (this.square[i] as number) + 0.001 * slope * slope;
      this.mean[i] = mean;
      this.square[i] = square;
      this.weights[i] = (this.weights[i] as number) - (rate * mean) / (Math.sqrt(square / correction) + 1e-8);
    }
  }
}

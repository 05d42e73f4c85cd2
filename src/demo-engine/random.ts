/** Reproducible randomness: every stream is named by a text, so equal inputs give equal pictures. */
import { createHash } from "node:crypto";

/** Uniform numbers in [0, 1). */
export type Random = () => number;

/** A stream (sfc32) seeded by the sha256 of `key`. */
export function createRandom(key: string): Random {
  const digest = createHash("sha256").update(key).digest();
  let a = digest.readInt32LE(0);
  let b = digest.readInt32LE(4);
  let c = digest.readInt32LE(8);
  let counter = digest.readInt32LE(12);
  return () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return (sum >>> 0) / 0x1_0000_0000;
  };
}

/** One standard normal number (Box-Muller). */
export function gaussian(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Gradient noise, about -1 to 1, smooth, and different for each stream. */
export type Noise = (x: number, y: number) => number;

/** Perlin's improved noise in two dimensions over a shuffled table. */
export function createNoise(random: Random): Noise {
  const table = new Uint8Array(512);
  for (let i = 0; i < 256; i++) table[i] = i;
  for (let i = 255; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const swap = table[i] as number;
    table[i] = table[j] as number;
    table[j] = swap;
  }
  table.copyWithin(256, 0, 256);
  // Sixteen directions instead of the usual four: no preference for the diagonals shows.
  const gradientX = new Float64Array(16);
  const gradientY = new Float64Array(16);
  for (let i = 0; i < 16; i++) {
    gradientX[i] = Math.cos((i * Math.PI) / 8) * 1.5;
    gradientY[i] = Math.sin((i * Math.PI) / 8) * 1.5;
  }
  const corner = (hash: number, x: number, y: number) =>
    (gradientX[hash & 15] as number) * x + (gradientY[hash & 15] as number) * y;
  return (x, y) => {
    const floorX = Math.floor(x);
    const floorY = Math.floor(y);
    const fx = x - floorX;
    const fy = y - floorY;
    const u = fx * fx * fx * (fx * (fx * 6 - 15) + 10);
    const v = fy * fy * fy * (fy * (fy * 6 - 15) + 10);
    const left = (table[floorX & 255] as number) + (floorY & 255);
    const right = (table[(floorX + 1) & 255] as number) + (floorY & 255);
    const low0 = corner(table[left & 511] as number, fx, fy);
    const low1 = corner(table[right & 511] as number, fx - 1, fy);
    const high0 = corner(table[(left + 1) & 511] as number, fx, fy - 1);
    const high1 = corner(table[(right + 1) & 511] as number, fx - 1, fy - 1);
    const low = low0 + (low1 - low0) * u;
    return low + (high0 + (high1 - high0) * u - low) * v;
  };
}

/** Sums octaves of `noise`, each twice as fine and `gain` times as strong; normalised to about -1 to 1. */
export function fractal(noise: Noise, x: number, y: number, octaves: number, gain = 0.5): number {
  let sum = 0;
  let amplitude = 1;
  let total = 0;
  let fx = x;
  let fy = y;
  for (let i = 0; i < octaves; i++) {
    sum += noise(fx, fy) * amplitude;
    total += amplitude;
    amplitude *= gain;
    // Turned as well as doubled, so that the lattices of the octaves never line up.
    const turnedX = fx * 1.6 - fy * 1.2 + 17.3;
    fy = fx * 1.2 + fy * 1.6 - 9.1;
    fx = turnedX;
  }
  return sum / total;
}

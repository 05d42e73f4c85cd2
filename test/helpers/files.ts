/** Small files for tests: pictures, and a model file that holds one tensor. */
import { randomInt } from "node:crypto";
import sharp from "sharp";

export interface PictureOptions {
  width?: number;
  height?: number;
  /** A CSS colour; random when left out, so that two pictures are two files. */
  color?: string;
  format?: "png" | "jpeg" | "webp" | "avif";
}

export function makePicture({ width = 64, height = 48, color, format = "png" }: PictureOptions = {}): Promise<Buffer> {
  const background =
    color ??
    `#${randomInt(2 ** 24)
      .toString(16)
      .padStart(6, "0")}`;
  return sharp({ create: { width, height, channels: 3, background } })
    .toFormat(format)
    .toBuffer();
}

/** As a browser sends a file; `name` is what it is called there. */
export function makeForm(name: string, bytes: Uint8Array, field = "file"): FormData {
  const form = new FormData();
  form.set(field, new File([new Uint8Array(bytes)], name));
  return form;
}

/** A valid .safetensors file, different at every call. */
export function makeModelFile(metadata?: Record<string, string>): Buffer {
  const weight = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const header = Buffer.from(JSON.stringify({ ...(metadata ? { __metadata__: metadata } : {}), weight }));
  const bytes = Buffer.alloc(8 + header.length + 8);
  bytes.writeBigUInt64LE(BigInt(header.length));
  bytes.set(header, 8);
  bytes.writeUInt32LE(randomInt(2 ** 32), 8 + header.length);
  return bytes;
}

/** A whole PNG, in base64. */
export const onePixel =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

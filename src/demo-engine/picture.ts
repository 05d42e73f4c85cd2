/** Plain RGB pictures in memory, and their way from and to files through sharp. */
import sharp, { type Sharp } from "sharp";
import { PythonError } from "./python.ts";

/** Eight bits a channel, three channels, rows from the top. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8Array;
}

/** More than this at once is answered as a graphics card would: out of memory. */
export const maxPixels = 4096 * 4096;

/** @throws PythonError "PIL.UnidentifiedImageError" when the bytes are no picture */
export async function decodePicture(source: Uint8Array | string): Promise<Picture> {
  try {
    const { data, info } = await sharp(source, { limitInputPixels: maxPixels })
      .autoOrient()
      .flatten({ background: "#000" })
      .toColourspace("srgb")
      .raw()
      .toBuffer({ resolveWithObject: true });
    if (info.channels === 3) return { width: info.width, height: info.height, data };
    // Grey pictures decode to one channel.
    const rgb = new Uint8Array(info.width * info.height * 3);
    for (let i = 0; i < rgb.length; i++) rgb[i] = data[Math.floor(i / 3) * info.channels] as number;
    return { width: info.width, height: info.height, data: rgb };
  } catch {
    throw new PythonError("PIL.UnidentifiedImageError", "cannot identify image file");
  }
}

/** PNG without any text chunk: ComfyUI would put the graph into one, which nobody here reads. */
export async function encodePng(picture: Picture): Promise<Uint8Array> {
  return raw(picture).png({ compressionLevel: 6 }).toBuffer();
}

/** JPEG of at most `maxEdge` pixels a side; a smaller picture is enlarged to `width` x `height` first. */
export async function encodePreview(picture: Picture, width: number, height: number, maxEdge = 512) {
  const scale = Math.min(1, maxEdge / Math.max(width, height));
  const fitted = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  return raw(picture)
    .resize({ ...fitted, fit: "fill", kernel: "cubic" })
    .jpeg({ quality: 80 })
    .toBuffer();
}

/** ComfyUI's names for resampling to sharp's. */
const kernels = {
  "nearest-exact": "nearest",
  bilinear: "linear",
  area: "mitchell",
  bicubic: "cubic",
  lanczos: "lanczos3",
} as const;
export type ResizeMethod = keyof typeof kernels;
export const resizeMethods = Object.keys(kernels) as ResizeMethod[];

/** How a picture meets a size of another shape: distorted, cut at the middle, or with black bars. */
export type Fit = "stretch" | "crop" | "pad";

/** Resizes to exactly `width` x `height`; the same size is the same picture. */
export async function resizePicture(
  picture: Picture,
  width: number,
  height: number,
  fit: Fit,
  method: ResizeMethod = "lanczos",
): Promise<Picture> {
  if (picture.width === width && picture.height === height) return picture;
  const sharpFit = ({ stretch: "fill", crop: "cover", pad: "contain" } as const)[fit];
  const data = await raw(picture)
    .resize({ width, height, fit: sharpFit, kernel: kernels[method], background: "#000" })
    .removeAlpha()
    .raw()
    .toBuffer();
  return { width, height, data };
}

/** The middle `width` x `height` of a picture, or as much as there is. */
export function cropCenter(picture: Picture, width: number, height: number): Picture {
  const cut = { width: Math.min(width, picture.width), height: Math.min(height, picture.height) };
  if (cut.width === picture.width && cut.height === picture.height) return picture;
  const left = Math.floor((picture.width - cut.width) / 2);
  const top = Math.floor((picture.height - cut.height) / 2);
  const data = new Uint8Array(cut.width * cut.height * 3);
  for (let y = 0; y < cut.height; y++) {
    const from = ((top + y) * picture.width + left) * 3;
    data.set(picture.data.subarray(from, from + cut.width * 3), y * cut.width * 3);
  }
  return { ...cut, data };
}

function raw(picture: Picture): Sharp {
  return sharp(picture.data, { raw: { width: picture.width, height: picture.height, channels: 3 } });
}

/** Smaller forms of a stored picture: two WebPs beside it in the store, and a ThumbHash to show before anything loads. */
import sharp, { type Sharp } from "sharp";
import { rgbaToThumbHash } from "thumbhash";
import { type ThumbnailEdge, thumbnailEdges } from "./keys.ts";
import { inTurn, maxPixels } from "./pictures.ts";

export const thumbnailType = "image/webp";

export interface Thumbnails {
  webps: { edge: ThumbnailEdge; bytes: Uint8Array }[];
  /** Base64, of some 25 bytes: https://evanw.github.io/thumbhash/ */
  thumbhash: string;
}

/** Of a picture that `readPicture` returned; never enlarged. It is decoded once, the rest is made of the largest. */
export function makeThumbnails(bytes: Uint8Array): Promise<Thumbnails> {
  return inTurn(async () => {
    const [largest] = thumbnailEdges;
    const { data, info } = await fit(sharp(bytes, { limitInputPixels: maxPixels }), largest)
      .toColourspace("srgb")
      .ensureAlpha()
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    const { width, height } = info;
    const decoded = () => sharp(data, { raw: { width, height, channels: 4 } });
    const webps = await Promise.all(
      thumbnailEdges.map(async (edge) => {
        return { edge, bytes: await fit(decoded(), edge).webp({ quality: 82 }).toBuffer() };
      }),
    );
    const tiny = await fit(decoded(), 100).raw().toBuffer({ resolveWithObject: true });
    const hash = rgbaToThumbHash(tiny.info.width, tiny.info.height, tiny.data);
    return { webps, thumbhash: Buffer.from(hash).toString("base64") };
  }, true);
}

function fit(image: Sharp, edge: number): Sharp {
  return image.resize({ width: edge, height: edge, fit: "inside", withoutEnlargement: true });
}

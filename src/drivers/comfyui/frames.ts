/** What the engine sends over its socket, parsed. */
import { z } from "zod";

export type Frame =
  | { type: "event"; name: string; data: Record<string, unknown> }
  /** `promptId` is null in the older format, which does not say. */
  | { type: "preview"; promptId: string | null; contentType: string; bytes: Uint8Array };

const textFrame = z.object({ type: z.string(), data: z.record(z.string(), z.unknown()).default({}) });
const previewMetadata = z.looseObject({
  prompt_id: z.string().nullish(),
  image_type: z.string().default("image/jpeg"),
});

/** Sent first, or previews come without saying whose they are. */
export const greeting = JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } });

/** Null for what is malformed or of a kind that we do not know: newer builds add some. */
export function parseFrame(message: string | Uint8Array): Frame | null {
  try {
    if (typeof message !== "string") return parsePreview(message);
    const { type, data } = textFrame.parse(JSON.parse(message));
    return { type: "event", name: type, data };
  } catch {
    // A hint lost; polling tells the truth.
    return null;
  }
}

/** Big-endian: the event's number, then for 1 the image's type and the image, for 4 a length, JSON and the image. */
function parsePreview(message: Uint8Array): Frame | null {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const kind = view.getUint32(0);
  if (kind === 1) {
    const contentType = view.getUint32(4) === 2 ? "image/png" : "image/jpeg";
    return { type: "preview", promptId: null, contentType, bytes: message.slice(8) };
  }
  if (kind !== 4) return null;
  const end = 8 + view.getUint32(4);
  if (end > message.length) return null;
  const metadata = previewMetadata.parse(JSON.parse(new TextDecoder().decode(message.subarray(8, end))));
  return {
    type: "preview",
    promptId: metadata.prompt_id ?? null,
    contentType: metadata.image_type,
    bytes: message.slice(end),
  };
}

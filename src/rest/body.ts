/** Reading JSON bodies, with their limits. */
import { Problem } from "../problems.ts";

export const maxJsonBytes = 8 * 1024 * 1024;

/**
 * @param types media types that are accepted
 * @throws Problem "unsupported-media-type", "too-large", "malformed-json"
 */
export async function readJson(request: Request, types: string[] = ["application/json"]): Promise<unknown> {
  const type = (request.headers.get("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (!types.includes(type)) {
    throw new Problem("unsupported-media-type", { detail: `The body must be ${types.join(" or ")}` });
  }
  const text = await readText(request);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Problem("malformed-json", { detail: `The body is not valid JSON: ${(error as Error).message}` });
  }
  if (!isStorable(text)) {
    throw new Problem("malformed-json", { detail: "The body holds a NUL character or half a surrogate pair" });
  }
  return value;
}

/**
 * Whether PostgreSQL can keep every text of this valid JSON as it is: it knows neither NUL nor half a surrogate pair.
 * Only escapes can bring them in. Reads the text, not the value, whose depth is the caller's to choose.
 */
function isStorable(json: string): boolean {
  if (!/\\u(0000|d[89a-f])/i.test(json)) return true;
  let highEndsAt = -1;
  for (const { 0: sequence, index } of json.matchAll(/\\(?:u[0-9a-f]{4}|.)/gi)) {
    const unit = sequence.length === 6 ? Number.parseInt(sequence.slice(2), 16) : -1;
    const isLow = unit >= 0xdc00 && unit <= 0xdfff;
    // A low half stands right behind a high one, and nothing else may.
    if (unit === 0 || isLow !== (highEndsAt === index) || (highEndsAt !== -1 && !isLow)) return false;
    highEndsAt = unit >= 0xd800 && unit <= 0xdbff ? index + sequence.length : -1;
  }
  return highEndsAt === -1;
}

async function readText(request: Request): Promise<string> {
  const tooLarge = () => new Problem("too-large", { detail: `A JSON body ends at ${maxJsonBytes} bytes` });
  if (Number(request.headers.get("content-length") ?? 0) > maxJsonBytes) throw tooLarge();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength;
    if (size > maxJsonBytes) throw tooLarge();
    chunks.push(chunk);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await new Blob(chunks as BlobPart[]).arrayBuffer());
  } catch (error) {
    throw new Problem("malformed-json", { detail: "The body is not UTF-8", cause: error });
  }
}

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
  // PostgreSQL cannot store it in text, and nobody means it.
  if (/\\u0000/.test(text)) throw new Problem("malformed-json", { detail: "The body holds a NUL character" });
  return value;
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

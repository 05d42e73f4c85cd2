/** Reading JSON bodies, with their limits. */
import { invalid, Problem } from "../problems.ts";

export const maxJsonBytes = 8 * 1024 * 1024;
/** No body of ours is deeper than five; what walks a value recursively must not run out of stack. */
const maxDepth = 100;

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
  if (isDeep(value))
    throw new Problem("malformed-json", { detail: `The body is nested deeper than ${maxDepth} levels` });
  // Only escapes can bring them in: the bytes themselves are UTF-8, and JSON allows no bare control character.
  if (/\\u(0000|d[89a-f])/i.test(text)) refuseUnstorable(value);
  return value;
}

/** For POSTs that take nothing: an empty object is as good as nothing. @throws Problem "invalid", "too-large" */
export async function refuseBody(request: Request): Promise<void> {
  const text = (await readText(request)).trim();
  if (text !== "" && !/^\{\s*\}$/.test(text)) throw invalid("", "must be empty: nothing is taken here");
}

/** Level by level, without recursion. */
function isDeep(value: unknown): boolean {
  let level = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > maxDepth) return true;
    level = level.flatMap((held) => (typeof held === "object" && held !== null ? Object.values(held) : []));
  }
  return false;
}

/**
 * NUL characters and halves of surrogate pairs, which PostgreSQL cannot store and nobody means. Without recursion,
 * since a body may be nested deeper than the stack is.
 * @throws Problem "malformed-json"
 */
function refuseUnstorable(value: unknown): void {
  const open = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next === "string") {
      if (next.includes("\0")) throw new Problem("malformed-json", { detail: "The body holds a NUL character" });
      if (!next.isWellFormed()) throw new Problem("malformed-json", { detail: "The body holds half a surrogate pair" });
    } else if (typeof next === "object" && next !== null) {
      for (const [name, held] of Object.entries(next)) open.push(name, held);
    }
  }
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

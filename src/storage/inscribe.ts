/** Writes into a .safetensors file what its maker did not know. Only the header is written anew; the tensors stream through. */
import type { ModelMetadata } from "./claims.ts";
import { headerLength } from "./magic.ts";

/** Some tens of thousands of tensors. A longer header would be parsed for so long that this process answered nobody. */
const maxParsedBytes = 10_000_000;
/** Readers map the tensors into memory: the format's writers begin them at a multiple of this. */
const alignment = 8;

/**
 * @param change the metadata for the metadata that is there; the same for the same, so that the file's hash is too
 * @returns the file with the changed header; what is no such file, or has too long a header, as it is
 */
export async function* inscribe(
  file: AsyncIterable<Uint8Array>,
  change: (metadata: ModelMetadata) => ModelMetadata,
): AsyncGenerator<Uint8Array> {
  let chunks: Uint8Array[] = [];
  let bytes = 0;
  let wanted = 8;
  let isHeader = true;
  for await (const chunk of file) {
    if (!isHeader) {
      yield chunk;
      continue;
    }
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes < wanted) continue;
    const start = Buffer.concat(chunks);
    chunks = [start];
    wanted = 8 + headerLength(start);
    const isShort = wanted - 8 <= maxParsedBytes;
    isHeader = isShort && bytes < wanted;
    if (isHeader) continue;
    const header = isShort ? rewrite(start.subarray(8, wanted), change) : null;
    if (header) yield header;
    yield header ? start.subarray(wanted) : start;
    chunks = [];
  }
  yield* chunks;
}

/** The length and the header; null when there is none that could be read. */
function rewrite(header: Uint8Array, change: (metadata: ModelMetadata) => ModelMetadata): Uint8Array | null {
  try {
    const { __metadata__: written = {}, ...tensors } = JSON.parse(
      new TextDecoder("utf-8", { fatal: true }).decode(header),
    );
    if (!Object.values(written).every((text) => typeof text === "string")) return null;
    const json = Buffer.from(JSON.stringify({ __metadata__: change(written), ...tensors }));
    const length = Math.ceil(json.length / alignment) * alignment;
    const bytes = Buffer.alloc(8 + length, " ");
    bytes.writeBigUInt64LE(BigInt(length));
    bytes.set(json, 8);
    return bytes;
  } catch {
    return null; // whoever reads the whole says what is wrong with it
  }
}

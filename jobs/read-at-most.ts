/** What an engine sends, when it is to fit into the memory. */
import { EngineError } from "../src/drivers/driver.ts";

/** An engine that never stops sending must not fill the memory. @throws EngineError "engine-failed" */
export async function readAtMost(stream: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.byteLength;
    if (size > maxBytes) throw new EngineError("engine-failed", "The engine's picture is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Files of the engine through `/view`. */
import { type Artifact, EngineError } from "../driver.ts";
import { accept, failure } from "../http.ts";
import type { EngineFile } from "./answers.ts";
import type { ComfyClient } from "./client.ts";

const contentTypes: Record<string, string> = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
};

export function toArtifact(role: Artifact["role"], file: EngineFile): Artifact {
  const extension = file.filename.split(".").at(-1)?.toLowerCase() ?? "";
  return { role, contentType: contentTypes[extension] ?? "application/octet-stream", locator: { ...file } };
}

function viewPath(file: Record<string, string>): string {
  const { filename = "", subfolder = "", type = "output" } = file;
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

/** Compressed on the way, a file would not have the length that is announced. */
const headers = { "accept-encoding": "identity" };

/** Null when the engine has no such file; `bytes` is null when it does not tell the size. */
export async function findFile(
  client: ComfyClient,
  file: EngineFile,
  signal: AbortSignal,
): Promise<{ bytes: number | null } | null> {
  const ask = (method: "HEAD" | "GET") =>
    client.request(viewPath(file), signal, { method, headers }, async (response) => {
      await response.body?.cancel();
      if (response.status === 404) return null;
      // A proxy that lets no HEAD pass would otherwise hide a result for good.
      if (method === "HEAD" && (response.status === 405 || response.status === 501)) return "refused";
      const length = (await accept(response)).headers.get("content-length");
      return { bytes: length === null ? null : Number(length) };
    });
  const found = await ask("HEAD");
  if (found !== "refused") return found;
  const fetched = await ask("GET");
  return fetched === "refused" ? null : fetched;
}

/** Streams a file. What breaks on the way is an EngineError too, so that half a file never passes for a whole. */
export async function viewStream(
  client: ComfyClient,
  locator: Record<string, string>,
  signal: AbortSignal,
): Promise<ReadableStream<Uint8Array>> {
  let response: Response;
  try {
    response = await client.send(viewPath(locator), signal, { headers });
    if (response.status === 404) {
      await response.body?.cancel();
      throw new EngineError("engine-failed", "The engine no longer has the result");
    }
    await accept(response);
  } catch (error) {
    throw failure(error, signal);
  }
  if (!response.body) throw new EngineError("engine-failed", "The engine's result is empty");
  const reader = response.body.getReader();
  const announced = response.headers.get("content-length");
  let missing = announced === null ? null : Number(announced);
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (!done) {
          if (missing !== null) missing -= value.length;
          controller.enqueue(value);
          return;
        }
        if (missing) throw new EngineError("unreachable", "The server's answer was cut off");
        controller.close();
      } catch (error) {
        controller.error(failure(error, signal));
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}

/**
 * Uploads through `/upload/image`, which looks into nothing: captions and model files pass as well as pictures. Bodies
 * are streamed with a known length, so that no file is ever held in memory as a whole.
 */
import { EngineError, type InputFile } from "../driver.ts";
import { readJson } from "../http.ts";
import { uploaded } from "./answers.ts";
import type { ComfyClient } from "./client.ts";

export interface Destination {
  type: "input" | "output";
  subfolder: string;
  filename: string;
  /** Without it, another file of that name stays and ours is stored under a name that the answer tells. */
  overwrite?: boolean;
}

type Source = Pick<InputFile, "size" | "stream">;

/**
 * Stores one file on the engine and returns its path below the folder of its type, with the name the engine gave it.
 * @throws EngineError "bad-input" when the file is larger than the engine takes
 */
export async function upload(client: ComfyClient, to: Destination, file: Source, signal: AbortSignal): Promise<string> {
  const boundary = `atelier-${crypto.randomUUID()}`;
  const field = (name: string, value: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
  const head = encode(
    field("type", to.type) +
      field("subfolder", to.subfolder) +
      (to.overwrite ? field("overwrite", "true") : "") +
      `--${boundary}\r\nContent-Disposition: form-data; name="image"; filename="${to.filename}"\r\n` +
      "Content-Type: application/octet-stream\r\n\r\n",
  );
  const tail = encode(`\r\n--${boundary}--\r\n`);
  const source: Fallible = { fault: null };
  const call = {
    method: "POST" as const,
    body: toStream(parts(head, read(file, source), tail)),
    headers: {
      "content-type": `multipart/form-data; boundary=${boundary}`,
      "content-length": String(head.length + file.size + tail.length),
    },
    // How long a model takes depends on its size and the line: the caller's signal decides.
    timeoutMs: null,
  };
  const sending = client.request("/upload/image", signal, call, async (response) => {
    if (response.status === 413) {
      await response.body?.cancel();
      throw tooLarge();
    }
    const { subfolder, name } = await readJson(response, uploaded);
    return subfolder ? `${subfolder}/${name}` : name;
  });
  // A fault of ours, in reading the file, is not the engine's silence.
  return sending.catch((error) => {
    throw source.fault ?? error;
  });
}

export const tooLarge = () => new EngineError("bad-input", "A file is larger than the server accepts");

/** A text as a file to upload. */
export function textFile(text: string): Source {
  const bytes = encode(text);
  return { size: bytes.length, stream: async () => new Blob([bytes]).stream() };
}

interface Fallible {
  fault: unknown;
}

async function* parts(head: Uint8Array, body: AsyncIterable<Uint8Array>, tail: Uint8Array): AsyncGenerator<Uint8Array> {
  yield head;
  yield* body;
  yield tail;
}

async function* read(file: Source, source: Fallible): AsyncGenerator<Uint8Array> {
  try {
    let size = 0;
    for await (const chunk of await file.stream()) {
      size += chunk.length;
      yield chunk;
    }
    // The length has been announced already: end in an error rather than have the engine wait for the rest.
    if (size !== file.size) throw new Error(`an input file has ${size} bytes instead of ${file.size}`);
  } catch (error) {
    source.fault = error;
    throw error;
  }
}

function toStream(chunks: AsyncGenerator<Uint8Array>): ReadableStream<Uint8Array> {
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await chunks.return(undefined);
    },
  });
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** Fetches a file from a URL that a user gave, by guarded requests alone (src/remote/request.ts). */
import type { ClientRequest, IncomingMessage } from "node:http";
import {
  type AddressOptions,
  findAllowedAddresses,
  forbidden,
  openPinned,
  RemoteError,
  unreachable,
  withLimit,
} from "../remote/request.ts";

export interface RemoteFile {
  /** Where it was found in the end. */
  url: string;
  /** As the other side says: proves nothing. */
  contentType: string | null;
  /** Fails with a RemoteError; cancelling it ends the connection. */
  stream: ReadableStream<Uint8Array>;
}

/** Every default is the safe one; the rest is there for tests, which have only a loopback. */
export interface RemoteOptions extends AddressOptions {
  maxBytes?: number;
  /** For everything together: names, redirects, connections and the last byte. */
  timeoutMs?: number;
  /** Trusted authorities in place of the system's, as PEM. */
  ca?: string;
}

export const remoteLimits = { maxBytes: 20_000_000, timeoutMs: 10_000, redirects: 3 };

/**
 * Follows at most three redirects, each checked like the first URL. No credentials, cookies or referrer are sent.
 *
 * @throws RemoteError
 */
export async function fetchRemote(url: string, options: RemoteOptions = {}): Promise<RemoteFile> {
  const { maxBytes = remoteLimits.maxBytes, timeoutMs = remoteLimits.timeoutMs } = options;
  const limit = AbortSignal.timeout(timeoutMs);
  let next = parse(url);
  for (let redirects = 0; redirects <= remoteLimits.redirects; redirects += 1) {
    const addresses = await withLimit(findAllowedAddresses(next, options), limit);
    const headers = { Accept: "image/*" };
    const { request, response } = await openPinned(next, addresses, { headers, signal: limit, ca: options.ca });
    const status = response.statusCode ?? 0;
    const { location } = response.headers;
    if (status === 200) return receive(request, response, next, maxBytes, limit);
    request.destroy();
    if (status === 404 || status === 410) throw new RemoteError("not-found", `The server answered ${status}.`);
    if (status < 300 || status > 399 || !location) {
      throw new RemoteError("unreachable", `The server answered ${status}.`);
    }
    next = parse(location, next);
  }
  throw new RemoteError("too-many-redirects", `It is redirected more than ${remoteLimits.redirects} times.`);
}

function parse(url: string, base?: URL): URL {
  const parsed = URL.parse(url, base);
  if (!parsed) throw forbidden("This is not a URL.");
  return parsed;
}
function receive(
  request: ClientRequest,
  response: IncomingMessage,
  url: URL,
  maxBytes: number,
  signal: AbortSignal,
): RemoteFile {
  const tooLarge = () => new RemoteError("too-large", `It has more than ${maxBytes} bytes.`);
  const declared = Number(response.headers["content-length"] ?? Number.NaN);
  if (declared > maxBytes) {
    request.destroy();
    throw tooLarge();
  }
  const chunks: AsyncIterator<Uint8Array> = response[Symbol.asyncIterator]();
  let received = 0;
  const stream = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const next = await withLimit(chunks.next(), signal);
          received += next.done ? 0 : next.value.length;
          if (received > maxBytes) throw tooLarge();
          if (!next.done) return controller.enqueue(next.value);
          controller.close();
        } catch (error) {
          request.destroy();
          controller.error(error instanceof RemoteError ? error : unreachable(error));
        }
      },
      cancel: () => void request.destroy(),
    },
    { highWaterMark: 0 },
  );
  return { url: url.href, contentType: response.headers["content-type"] ?? null, stream };
}

/**
 * Fetches a file from a URL that a user gave, without becoming the user's way into our own network: every address is
 * checked, and the connection goes to the checked address, whatever the name resolves to a moment later.
 *
 * On node:http(s) rather than fetch, which has no hook for the resolver.
 */
import { lookup as lookUp } from "node:dns/promises";
import { type ClientRequest, type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import ipaddr from "ipaddr.js";
import { isForbiddenHost, isPublicAddress } from "./addresses.ts";

export { isForbiddenHost, isPublicAddress } from "./addresses.ts";

export type RemoteFailure =
  | "unreachable"
  | "forbidden-address"
  | "too-large"
  | "not-found"
  | "timed-out"
  | "too-many-redirects";

/** Why nothing came: `reason` for the program, the message for a report. Neither names an address of ours. */
export class RemoteError extends Error {
  override readonly name = "RemoteError";
  constructor(
    readonly reason: RemoteFailure,
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

export interface RemoteFile {
  /** Where it was found in the end. */
  url: string;
  /** As the other side says: proves nothing. */
  contentType: string | null;
  /** Fails with a RemoteError; cancelling it ends the connection. */
  stream: ReadableStream<Uint8Array>;
}

/** Every default is the safe one; the rest is there for tests, which have only a loopback. */
export interface RemoteOptions {
  maxBytes?: number;
  /** For everything together: names, redirects, connections and the last byte. */
  timeoutMs?: number;
  /** All addresses of a name. */
  resolve?: (name: string) => Promise<string[]>;
  isAllowedAddress?: (address: string) => boolean;
  isForbiddenHost?: (host: string) => boolean;
  ports?: ReadonlySet<number>;
  /** Trusted authorities in place of the system's, as PEM. */
  ca?: string;
}

export const remoteLimits = { maxBytes: 20_000_000, timeoutMs: 10_000, redirects: 3 };
const usualPorts: ReadonlySet<number> = new Set([80, 443, 8080, 8443]);

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
    const { request, response } = await open(next, addresses, limit, options.ca);
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

/**
 * The addresses of a URL's host: resolved once, all of them allowed. Connect to these and to nothing else.
 *
 * @throws RemoteError "forbidden-address" or "unreachable"
 */
export async function findAllowedAddresses(url: URL, options: RemoteOptions = {}): Promise<string[]> {
  const { ports = usualPorts, isAllowedAddress = isPublicAddress, resolve = resolveName } = options;
  if (url.protocol !== "http:" && url.protocol !== "https:") throw forbidden("Only http and https are allowed.");
  if (url.username || url.password) throw forbidden("A URL with a user or a password is not allowed.");
  const port = Number(url.port || (url.protocol === "https:" ? 443 : 80));
  if (!ports.has(port)) throw forbidden(`The port ${port} is not allowed.`);
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  if ((options.isForbiddenHost ?? isForbiddenHost)(host)) throw forbidden("This host is not a public one.");

  const addresses = ipaddr.isValid(host)
    ? [host]
    : await resolve(host).catch((cause) => {
        throw new RemoteError("unreachable", "The host name does not resolve.", cause);
      });
  if (addresses.length === 0) throw new RemoteError("unreachable", "The host name does not resolve.");
  // One forbidden address is enough: which of them a connection takes is not ours to say.
  if (!addresses.every(isAllowedAddress)) throw forbidden("This host is not a public one.");
  return addresses;
}

async function resolveName(name: string): Promise<string[]> {
  return (await lookUp(name, { all: true })).map(({ address }) => address);
}

function parse(url: string, base?: URL): URL {
  const parsed = URL.parse(url, base);
  if (!parsed) throw forbidden("This is not a URL.");
  return parsed;
}

/** Connects to one of the checked addresses; the name stays in the Host header and in TLS. */
async function open(url: URL, addresses: string[], signal: AbortSignal, ca: string | undefined) {
  const found = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  const [first = { address: "", family: 4 }] = found;
  const request = (url.protocol === "https:" ? requestHttps : requestHttp)(url, {
    // A connection kept from before would go to an address that was not checked for this request.
    agent: false,
    ca,
    headers: { "User-Agent": "Atelier", Accept: "image/*", "Accept-Encoding": "identity", Connection: "close" },
    lookup: (_name, { all }, done) => (all ? done(null, found) : done(null, first.address, first.family)),
    signal,
  });
  try {
    const response = await withLimit(
      new Promise<IncomingMessage>((resolve, reject) => {
        request.once("response", resolve).on("error", reject).end();
      }),
      signal,
    );
    return { request, response };
  } catch (error) {
    request.destroy();
    throw error instanceof RemoteError ? error : unreachable(error);
  }
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

/** Fails when the limit is reached, also where what is awaited cannot be stopped (the system's resolver). */
async function withLimit<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const timedOut = () => new RemoteError("timed-out", "It took too long.");
  if (signal.aborted) throw timedOut();
  let onAbort = () => {};
  const limit = new Promise<never>((_, reject) => {
    onAbort = () => reject(timedOut());
    signal.addEventListener("abort", onAbort);
  });
  try {
    return await Promise.race([work, limit]);
  } catch (error) {
    throw signal.aborted ? timedOut() : error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function forbidden(message: string): RemoteError {
  return new RemoteError("forbidden-address", message);
}

function unreachable(cause: unknown): RemoteError {
  return new RemoteError("unreachable", "The server cannot be reached or broke off.", cause);
}

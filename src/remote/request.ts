/**
 * Requests to URLs that a user gave, without becoming the user's way into our own network: every address is checked,
 * and the connection goes to the checked address, whatever the name resolves to a moment later.
 *
 * On node:http(s) rather than fetch, which has no hook for the resolver.
 */
import { lookup as lookUp } from "node:dns/promises";
import { type ClientRequest, type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import ipaddr from "ipaddr.js";
import { isForbiddenHost, isPublicAddress } from "./addresses.ts";

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

/** Which addresses may be connected to. Every default is the safe one. */
export interface AddressOptions {
  /** All addresses of a name. */
  resolve?: (name: string) => Promise<string[]>;
  isAllowedAddress?: (address: string) => boolean;
  isForbiddenHost?: (host: string) => boolean;
  isAllowedPort?: (port: number) => boolean;
}

const usualPorts: ReadonlySet<number> = new Set([80, 443, 8080, 8443]);

/** Whether web servers for strangers are expected there; other ports are a way to talk to what is no web server. */
export function isUsualPort(port: number): boolean {
  return usualPorts.has(port);
}

/** The port that a connection to an http(s) URL goes to. */
export function portOf(url: URL): number {
  return Number(url.port || (url.protocol === "https:" ? 443 : 80));
}

/**
 * The addresses of a URL's host: resolved once, all of them allowed. Connect to these and to nothing else.
 *
 * @throws RemoteError "forbidden-address" or "unreachable"
 */
export async function findAllowedAddresses(url: URL, options: AddressOptions = {}): Promise<string[]> {
  const { isAllowedPort = isUsualPort, isAllowedAddress = isPublicAddress, resolve = resolveName } = options;
  if (url.protocol !== "http:" && url.protocol !== "https:") throw forbidden("Only http and https are allowed.");
  if (url.username || url.password) throw forbidden("A URL with a user or a password is not allowed.");
  const port = portOf(url);
  if (!isAllowedPort(port)) throw forbidden(`The port ${port} is not allowed.`);
  const host = hostOf(url);
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

/** A URL's host as resolvers and address parsers take it: IPv6 without brackets. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, "$1");
}

async function resolveName(name: string): Promise<string[]> {
  return (await lookUp(name, { all: true })).map(({ address }) => address);
}

export interface PinnedOptions {
  method?: "GET" | "POST";
  headers: Record<string, string>;
  body?: string;
  signal: AbortSignal;
  /** Trusted authorities in place of the system's, as PEM. */
  ca?: string;
}

/**
 * Connects to one of the checked addresses; the name stays in the Host header and in TLS. Redirects are answers like
 * others. Whoever has read enough of the response destroys the request.
 *
 * @throws RemoteError
 */
export async function openPinned(
  url: URL,
  addresses: string[],
  { method = "GET", headers, body, signal, ca }: PinnedOptions,
): Promise<{ request: ClientRequest; response: IncomingMessage }> {
  const found = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  const [first = { address: "", family: 4 }] = found;
  const request = (url.protocol === "https:" ? requestHttps : requestHttp)(url, {
    method,
    // A connection kept from before would go to an address that was not checked for this request.
    agent: false,
    ca,
    headers: { "User-Agent": "Atelier", "Accept-Encoding": "identity", Connection: "close", ...headers },
    lookup: (_name, { all }, done) => (all ? done(null, found) : done(null, first.address, first.family)),
    signal,
  });
  try {
    const response = await withLimit(
      new Promise<IncomingMessage>((resolve, reject) => {
        request.once("response", resolve).on("error", reject).end(body);
      }),
      signal,
    );
    return { request, response };
  } catch (error) {
    request.destroy();
    throw error instanceof RemoteError ? error : unreachable(error);
  }
}

/** Fails when the limit is reached, also where what is awaited cannot be stopped (the system's resolver). */
export async function withLimit<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
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

export function forbidden(message: string): RemoteError {
  return new RemoteError("forbidden-address", message);
}

export function unreachable(cause: unknown): RemoteError {
  return new RemoteError("unreachable", "The server cannot be reached or broke off.", cause);
}

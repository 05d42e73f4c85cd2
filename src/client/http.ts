/** Requests: the token, JSON in and out, problems as errors, and creates that survive a lost connection. */
import { toProblemError } from "./problem-error.ts";

export interface Transport {
  /** Without a slash at the end. */
  url: string;
  fetch: typeof globalThis.fetch;
  token: string | null;
  /** Milliseconds before the attempt of this number, from 1. */
  backoff: (attempt: number) => number;
}

export interface Call {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Sent with an Idempotency-Key, and again when the network fails: it acts once. */
  isCreate?: boolean;
}

const attempts = 4;
const etags = new WeakMap<object, string>();

/** The ETag that came with an object, for `ifMatch`; null when it came in a list or over a socket. */
export function etagOf(object: object): string | null {
  return etags.get(object) ?? null;
}

/** @throws ProblemError for every answer that is no success; what `fetch` throws when the network fails */
export async function send<T>(transport: Transport, method: string, path: string, call: Call = {}): Promise<T> {
  const isBlob = call.body instanceof Blob;
  const headers: Record<string, string> = {
    Accept: "application/json",
    ...(transport.token === null ? {} : { Authorization: `Bearer ${transport.token}` }),
    ...(call.body === undefined ? {} : { "Content-Type": isBlob ? mediaType(call.body as Blob) : "application/json" }),
    ...(call.isCreate ? { "Idempotency-Key": randomKey() } : {}),
    ...call.headers,
  };
  const request: RequestInit = {
    method,
    headers,
    body: call.body === undefined ? undefined : isBlob ? (call.body as Blob) : JSON.stringify(call.body),
    signal: call.signal,
  };
  const response = await repeat(call.isCreate ? attempts : 1, transport, request, path);
  if (!response.ok) throw await toProblemError(response);
  if (response.status === 204) return undefined as T;
  const object = (await response.json()) as T;
  const etag = response.headers.get("etag");
  if (etag !== null && typeof object === "object" && object !== null) etags.set(object, etag);
  return object;
}

/** Only a network that failed is tried again: whatever the server answers is an answer. */
async function repeat(limit: number, transport: Transport, request: RequestInit, path: string): Promise<Response> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await transport.fetch(`${transport.url}${path}`, request);
    } catch (error) {
      if (attempt >= limit || request.signal?.aborted) throw error;
      await pause(transport.backoff(attempt), request.signal ?? undefined);
      request.signal?.throwIfAborted();
    }
  }
}

/** Ends early when the signal fires. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** The server judges the bytes; a blob without a type is sent as just those. */
function mediaType(blob: Blob): string {
  return blob.type || "application/octet-stream";
}

/** `crypto.randomUUID` is missing in pages that came over plain http. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * HTTP to one engine: base address, Basic auth, private CA, time limits, and every failure turned into an EngineError.
 * Sends no `Origin` (ComfyUI compares it with `Host`) and follows no redirect (it would carry the credentials).
 */
import type { z } from "zod";
import { EngineError, type EngineTarget } from "./driver.ts";

export interface Call {
  method?: "GET" | "POST" | "HEAD";
  /** Sent as JSON. */
  json?: unknown;
  body?: ReadableStream<Uint8Array>;
  headers?: Record<string, string>;
  /** Overrides the client's limit; null leaves the time to the caller's signal. */
  timeoutMs?: number | null;
}

/**
 * `tls` is what Bun's fetch and its WebSocket read; a runtime without it ignores it and trusts the system's CAs.
 * `timeout: false` keeps Bun from ending a silent connection after five minutes.
 */
type Init = RequestInit & { tls?: { ca: string }; timeout?: false; duplex?: "half" };

export class HttpClient {
  readonly tls: { ca: string } | undefined;
  readonly authorization: Record<string, string>;
  protected readonly host: string;

  constructor(
    protected readonly target: EngineTarget,
    private readonly timeoutMs: number,
  ) {
    const isBareIpv6 = target.host.includes(":") && !target.host.startsWith("[");
    this.host = `${isBareIpv6 ? `[${target.host}]` : target.host}:${target.port}`;
    this.tls = target.tlsCa ? { ca: target.tlsCa } : undefined;
    this.authorization = target.username ? { authorization: basic(target.username, target.password ?? "") } : {};
  }

  /** One answer of status 200, parsed. Any other status, and a body of another shape, is an EngineError. */
  async get<T>(path: string, schema: z.ZodType<T>, signal: AbortSignal, call: Call = {}): Promise<T> {
    const found = await this.find(path, schema, signal, call);
    if (found === null) throw refusal(404);
    return found;
  }

  /** Like `get`, but null where the engine has no such path: older and newer builds differ in their routes. */
  find<T>(path: string, schema: z.ZodType<T>, signal: AbortSignal, call: Call = {}): Promise<T | null> {
    return this.request(path, signal, call, async (response) => {
      if (response.status === 404 || response.status === 405) {
        await response.body?.cancel();
        return null;
      }
      return readJson(response, schema);
    });
  }

  /** A POST whose answer has no body worth reading. */
  post(path: string, json: unknown, signal: AbortSignal): Promise<void> {
    return this.request(path, signal, { method: "POST", json }, async (response) => {
      await (await accept(response)).body?.cancel();
    });
  }

  /**
   * Sends one request and hands the answer, of whatever status, to `read`; the time limit covers both.
   * @throws EngineError "unreachable"; what else aborts the signal is thrown as it is
   */
  async request<T>(
    path: string,
    signal: AbortSignal,
    call: Call,
    read: (response: Response) => Promise<T>,
  ): Promise<T> {
    const limit = new AbortController();
    const forward = () => limit.abort(signal.reason);
    if (signal.aborted) forward();
    signal.addEventListener("abort", forward, { once: true });
    const timeoutMs = call.timeoutMs === undefined ? this.timeoutMs : call.timeoutMs;
    const timer = timeoutMs === null ? undefined : setTimeout(() => limit.abort(), timeoutMs);
    try {
      return await read(await this.send(path, limit.signal, call));
    } catch (error) {
      throw failure(error, signal);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", forward);
    }
  }

  /** The bare request. Whoever calls it reads or cancels the body, and maps what it throws with `failure`. */
  send(path: string, signal: AbortSignal, call: Call = {}): Promise<Response> {
    const init: Init = {
      method: call.method ?? "GET",
      headers: { ...this.authorization, ...call.headers },
      signal,
      redirect: "manual",
      timeout: false,
    };
    if (call.json !== undefined) init.body = JSON.stringify(call.json);
    if (call.body) Object.assign(init, { body: call.body, duplex: "half" });
    if (this.tls) init.tls = this.tls;
    return fetch(`${this.target.tls ? "https" : "http"}://${this.host}${path}`, init);
  }
}

function basic(username: string, password: string): string {
  const bytes = new TextEncoder().encode(`${username}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

/** Passes a 2xx answer on and throws for any other. */
export async function accept(response: Response): Promise<Response> {
  if (response.ok) return response;
  await response.body?.cancel();
  throw refusal(response.status);
}

/** What a status means when the engine was asked for something that every build of it can answer. */
export function refusal(status: number): EngineError {
  if (status === 401 || status === 403) return new EngineError("unauthorized", "The server refuses our credentials");
  // A proxy in front answers these while the engine behind it is away or overrun.
  if (status === 429 || (status >= 502 && status <= 504)) {
    return new EngineError("unreachable", `The server does not let us through to its engine (${status})`);
  }
  if (status >= 300 && status < 500) return wrongEngine();
  return new EngineError("engine-failed", `The engine answered with an error (${status})`);
}

export const wrongEngine = (cause?: unknown): EngineError =>
  new EngineError("wrong-engine", "Something else than the expected engine answers there", { cause });

/** The body of a 2xx answer, parsed. @throws EngineError also for another status or shape */
export async function readJson<T>(response: Response, schema: z.ZodType<T>): Promise<T> {
  const text = await (await accept(response)).text();
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw wrongEngine(cause);
  }
}

/** What a failed request is to be thrown as. A caller's own time limit counts as the engine's silence. */
export function failure(error: unknown, signal: AbortSignal): unknown {
  if (error instanceof EngineError) return error;
  if (signal.aborted) {
    if (!(signal.reason instanceof DOMException && signal.reason.name === "TimeoutError")) return signal.reason;
    return new EngineError("unreachable", "The server did not answer in time", { cause: error });
  }
  return new EngineError("unreachable", "The server does not answer", { cause: error });
}

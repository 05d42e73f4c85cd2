/**
 * The same frames as server-sent events: `GET` with `Accept: text/event-stream` on the path of an object or a list. An
 * event's id is the object's version; whoever comes back with it in `Last-Event-ID` is told what is newer and nothing
 * else.
 */
import type { Socket } from "../runtime/runtime.ts";
import { admit, type RelayDeps } from "./admission.ts";
import { closeCodes, Follower } from "./follower.ts";
import type { Message } from "./frames.ts";
import type { Hub } from "./hub.ts";
import type { Stay } from "./places.ts";

/** Keeps the connection open through proxies, and finds out those that are gone. */
const pingMs = 20_000;
const encoder = new TextEncoder();

export function wantsEvents(request: Request): boolean {
  return request.method === "GET" && /(^|[\s,])text\/event-stream([\s,;]|$)/.test(request.headers.get("accept") ?? "");
}

export async function streamEvents(request: Request, address: string | undefined, deps: RelayDeps): Promise<Response> {
  const headers = new Headers(request.headers);
  headers.delete("if-none-match");
  const admitted = await admit(new Request(request.url, { headers }), address, deps);
  if (admitted instanceof Response) return admitted;
  const { target, viewer, answer, stay } = admitted;
  await answer.body?.cancel();
  const lastId = request.headers.get("last-event-id") ?? "";
  const known = /^\d{1,15}$/.test(lastId) ? Number(lastId) : null;
  const follower = new Follower(viewer, target, toEvent, known);
  const answered = new Headers(answer.headers);
  for (const name of ["content-length", "etag", "content-encoding"]) answered.delete(name);
  answered.set("Content-Type", "text/event-stream; charset=utf-8");
  answered.set("Cache-Control", "no-store");
  answered.set("X-Accel-Buffering", "no"); // nginx would hold events back
  const events = new EventStream(deps.hub, follower, stay);
  const stream = new ReadableStream(events, new ByteLengthQueuingStrategy({ highWaterMark: 0 }));
  return new Response(stream, { status: 200, headers: answered });
}

/** The stream's source, and what the follower takes for its socket. */
class EventStream implements Socket, UnderlyingDefaultSource<Uint8Array> {
  private controller: ReadableStreamDefaultController<Uint8Array> | null = null;

  constructor(
    private readonly hub: Hub,
    private readonly follower: Follower,
    private readonly stay: Stay,
  ) {}

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.controller = controller;
    open.add(this);
    pings ??= setInterval(pingAll, pingMs);
    // Something at once, so that whoever asks sees the stream open even when there is nothing new.
    this.send(": watching\n\n");
    this.follower.attach(this);
    this.hub.follow(this.follower);
  }

  /** The client has gone. */
  cancel(): void {
    this.end();
    this.follower.end();
    this.hub.unfollow(this.follower);
  }

  send(text: string): number {
    this.controller?.enqueue(encoder.encode(text));
    return this.buffered();
  }

  buffered(): number {
    return Math.max(0, -(this.controller?.desiredSize ?? 0));
  }

  close(code: number, reason: string): void {
    this.end();
    if (code === closeCodes.tryAgain) {
      this.controller?.error(new Error(reason));
    } else {
      this.send(`event: close\ndata: ${JSON.stringify({ code, reason })}\n\n`);
      this.controller?.close();
    }
  }

  ping(): void {
    if (this.buffered() === 0) this.send(": ping\n\n");
  }

  private end(): void {
    open.delete(this);
    this.stay.leave();
  }
}

/** One timer for all. */
const open = new Set<EventStream>();
let pings: ReturnType<typeof setInterval> | null = null;

function pingAll(): void {
  for (const stream of open) stream.ping();
  if (open.size > 0 || !pings) return;
  clearInterval(pings);
  pings = null;
}

function toEvent({ type, version, text }: Message): string {
  return `${version === null ? "" : `id: ${version}\n`}event: ${type}\ndata: ${text}\n\n`;
}

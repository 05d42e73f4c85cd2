/**
 * What the API needs of the program that runs it and that neither Web standards nor node: modules have: a server with
 * WebSockets. Everything else of the API is portable, so a runtime is one file that implements `Listen`.
 */

export interface ListenOptions {
  hostname: string;
  /** 0 takes a free one. */
  port: number;
  /** @param address of the connection's other end; undefined when it is gone already */
  fetch(request: Request, address: string | undefined): Response | Promise<Response>;
  /** Asked in place of `fetch` when a request wants to become a WebSocket; a Response refuses. */
  upgrade(request: Request, address: string | undefined): Promise<Response | Upgrade>;
}

/** The consent to a WebSocket. */
export interface Upgrade {
  /** The subprotocol that the answer names, one of those offered; null names none. Never left to the runtime. */
  protocol: string | null;
  visitor: Visitor;
}

/** Whom a socket is for. */
export interface Visitor {
  /** Called once, when frames can be sent. */
  opened(socket: Socket): void;
  /** Called once, when no more can; without `opened` when the request turns out to be no handshake after all. */
  closed(): void;
}

/** Sockets only speak: what a client says is dropped, and more than `maxMessageBytes` of it closes with 1009. */
export interface Socket {
  /** @returns as `buffered` does */
  send(text: string): number;
  /** Bytes that were sent and that the system has not taken yet, since the client does not read. */
  buffered(): number;
  /** A client that does not answer is broken off after `closeGraceMs`, where the runtime can. */
  close(code: number, reason: string): void;
}

export interface Listening {
  port: number;
  /** Lets requests end for `graceMs` at most, then breaks off what is left; sockets are to be closed before. */
  stop(graceMs: number): Promise<void>;
}

/** @throws (now or later) an Error with code EADDRINUSE when the port is taken */
export type Listen = (options: ListenOptions) => Listening;

export const maxMessageBytes = 64 * 1024;
/** Far above what is ever left waiting for one client: a single frame of the largest object. */
export const maxBufferedBytes = 64 * 1024 * 1024;
export const closeGraceMs = 5_000;
/** A socket that answers no ping for this long is given up, and one that answers is kept open through proxies. */
export const socketIdleSeconds = 120;

export function isHandshake(request: Request): boolean {
  return request.headers.get("upgrade")?.toLowerCase() === "websocket";
}

export function noHandshake(): Response {
  return new Response("this is no WebSocket handshake", { status: 400 });
}

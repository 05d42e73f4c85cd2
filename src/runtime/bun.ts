/** The API on Bun: Bun.serve with its native WebSockets. */
import { setTimeout as sleep } from "node:timers/promises";
import {
  closeGraceMs,
  isHandshake,
  type Listen,
  maxBufferedBytes,
  maxMessageBytes,
  noHandshake,
  type Socket,
  socketIdleSeconds,
  type Visitor,
} from "./runtime.ts";

/** Above every limit of our own: Bun would answer a larger body with a bare 413. */
const maxRequestBodySize = 64 * 1024 ** 3;
/** Seconds; a handler that writes nothing for longer is cut off, so it must outlast slow uploads. */
const idleTimeout = 120;
/** Where a whole model is read back, or hundreds of pictures are decoded, after the body has come. */
const isLong = /\/(complete|files)$/;
const longTimeout = 3600;

/** A class, since there are thousands: functions made for each would weigh more than the socket. */
class BunSocket implements Socket {
  private socket: Bun.ServerWebSocket<BunSocket> | null = null;

  constructor(readonly visitor: Visitor) {}

  open(socket: Bun.ServerWebSocket<BunSocket>): void {
    this.socket = socket;
    this.visitor.opened(this);
  }

  send(text: string): number {
    // A positive number: all of it went out.
    return this.socket && this.socket.send(text) > 0 ? 0 : this.buffered();
  }

  buffered(): number {
    return this.socket?.getBufferedAmount() ?? 0;
  }

  close(code: number, reason: string): void {
    const { socket } = this;
    socket?.close(code, reason);
    if (socket && socket.readyState !== WebSocket.CLOSED) setTimeout(() => socket.terminate(), closeGraceMs).unref();
  }
}

export const listenOnBun: Listen = ({ hostname, port, fetch, upgrade }) => {
  const server = Bun.serve<BunSocket>({
    hostname,
    port,
    maxRequestBodySize,
    idleTimeout,
    websocket: {
      maxPayloadLength: maxMessageBytes,
      // By default frames for a slow reader would be dropped silently.
      backpressureLimit: maxBufferedBytes,
      closeOnBackpressureLimit: true,
      idleTimeout: socketIdleSeconds,
      sendPings: true,
      open: (socket) => socket.data.open(socket),
      message() {},
      close: (socket) => socket.data.visitor.closed(),
    },
    fetch(request, server) {
      if (request.method === "POST" && isLong.test(request.url)) server.timeout(request, longTimeout);
      const address = server.requestIP(request)?.address;
      return isHandshake(request) ? accept(request, address) : fetch(request, address);
    },
  });

  /** Undefined once the connection is a socket. */
  async function accept(request: Request, address: string | undefined): Promise<Response | undefined> {
    const answer = await upgrade(request, address);
    if (answer instanceof Response) return answer;
    // Without the header Bun would echo the first offer, which may be a token.
    const headers: Record<string, string> = answer.protocol ? { "Sec-WebSocket-Protocol": answer.protocol } : {};
    if (server.upgrade(request, { headers, data: new BunSocket(answer.visitor) })) return;
    answer.visitor.closed();
    return noHandshake();
  }

  return {
    port: server.port as number,
    async stop(graceMs) {
      // `stop` alone waits for ever while a socket is open.
      await Promise.race([server.stop(), sleep(graceMs)]);
      await server.stop(true);
    },
  };
};

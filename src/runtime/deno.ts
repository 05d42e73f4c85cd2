/**
 * The API on Deno: Deno.serve and Deno.upgradeWebSocket, as of Deno 2.9. Two of its sockets' ways differ from Bun's: a
 * message is in memory before its length can be judged, and nothing cuts a connection off. So a reader that has
 * stopped keeps what was buffered for it (a frame or two) until its system gives the connection up; for the rest of us
 * it has gone.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { isHandshake, type Listen, maxMessageBytes, noHandshake, socketIdleSeconds, type Visitor } from "./runtime.ts";

/** What is used of Deno, declared here: its own types contradict those of Bun, which the compiler reads. */
interface DenoServing {
  serve(
    options: { hostname: string; port: number; signal: AbortSignal; onListen(): void },
    handler: (
      request: Request,
      info: { remoteAddr: { transport: string; hostname?: string } },
    ) => Response | Promise<Response>,
  ): { addr: { port: number }; shutdown(): Promise<void> };
  upgradeWebSocket(request: Request, options: { idleTimeout: number }): { socket: WebSocket; response: Response };
}

export const listenOnDeno: Listen = ({ hostname, port, fetch, upgrade }) => {
  const { serve, upgradeWebSocket } = (globalThis as unknown as { Deno: DenoServing }).Deno;
  const breakOff = new AbortController();

  const server = serve({ hostname, port, signal: breakOff.signal, onListen() {} }, (request, { remoteAddr }) => {
    const address = remoteAddr.hostname;
    return isHandshake(request) ? accept(request, address) : fetch(request, address);
  });

  async function accept(request: Request, address: string | undefined): Promise<Response> {
    const answer = await upgrade(request, address);
    if (answer instanceof Response) return answer;
    let upgraded: ReturnType<typeof upgradeWebSocket>;
    try {
      upgraded = upgradeWebSocket(request, { idleTimeout: socketIdleSeconds });
    } catch (error) {
      answer.visitor.closed();
      if (error instanceof TypeError) return noHandshake();
      throw error;
    }
    attach(upgraded.socket, answer.visitor);
    // Not Deno's own option: it takes the offers apart at comma and blank, and refuses lists without the blank.
    if (answer.protocol) upgraded.response.headers.set("Sec-WebSocket-Protocol", answer.protocol);
    return upgraded.response;
  }

  return {
    port: server.addr.port,
    async stop(graceMs) {
      const isOver = await Promise.race([server.shutdown().then(() => true), sleep(graceMs, false)]);
      // Deno fails on an abort that comes after the end.
      if (!isOver) breakOff.abort();
    },
  };
};

function attach(socket: WebSocket, visitor: Visitor): void {
  let hasLeft = false;
  const leave = () => {
    if (!hasLeft) visitor.closed();
    hasLeft = true;
  };
  const close = (code: number, reason: string) => {
    if (socket.readyState === socket.OPEN) socket.close(code, reason);
    leave();
  };
  const buffered = () => (socket.readyState === socket.OPEN ? socket.bufferedAmount : 0);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    visitor.opened({
      send(text) {
        if (socket.readyState === socket.OPEN) socket.send(text);
        return buffered();
      },
      buffered,
      close,
    });
  };
  socket.onmessage = ({ data }) => {
    const bytes = typeof data === "string" ? Buffer.byteLength(data) : data.byteLength;
    if (bytes > maxMessageBytes) close(1009, "the message is too large");
  };
  socket.onclose = leave;
  // A connection that broke; `onclose` follows, and without a listener Deno would take it for a failure of ours.
  socket.onerror = () => {};
}

/** Clients of the real API on a port of its own, closed with the test file. */
import { afterAll } from "bun:test";
import { type ClientOptions, createClient, type SocketClass } from "../../src/client/index.ts";
import { serve } from "../../src/serve.ts";
import { startApp } from "./app.ts";

export async function startClients() {
  // Hooks run in the order in which they were added: the API stops before the app's database goes.
  let stop = async () => {};
  afterAll(() => stop());
  const app = await startApp();
  const { config, sql, secrets, storage, log } = app;
  const api = await serve({ config, databaseUrl: app.databaseUrl, sql, secrets, storage, log });
  stop = () => api.stop();
  const url = `http://127.0.0.1:${api.port}`;
  return {
    app,
    url,
    client: (token: string | null = null, options: Partial<ClientOptions> = {}) =>
      createClient({ url, token, backoff: () => 20, ...options }),
  };
}

/** A WebSocket whose connections a test can cut; it keeps what was offered. */
export function cuttableSocket() {
  const open: WebSocket[] = [];
  const offers: { url: string; protocols: string[] }[] = [];
  class Cuttable extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols);
      offers.push({ url, protocols });
      open.push(this);
    }
  }
  return {
    SocketClass: Cuttable as unknown as SocketClass,
    offers,
    cut: () => {
      for (const socket of open.splice(0)) socket.close();
    },
  };
}

/** A WebSocket that says what a test lets it say. */
export function scriptedSocket() {
  type Listener = (event: { data: string }) => void;
  const sockets: { listeners: Record<string, Listener[]>; close(): void }[] = [];
  class Scripted {
    listeners: Record<string, Listener[]> = {};
    constructor() {
      sockets.push(this);
    }
    addEventListener(type: string, listener: Listener) {
      this.listeners[type] = [...(this.listeners[type] ?? []), listener];
    }
    emit(type: string, data = "") {
      for (const listener of this.listeners[type] ?? []) listener({ data });
    }
    close() {
      this.emit("close");
    }
  }
  return {
    SocketClass: Scripted as unknown as SocketClass,
    count: () => sockets.length,
    say: (frame: unknown) => (sockets.at(-1) as Scripted).emit("message", JSON.stringify(frame)),
    cut: () => sockets.at(-1)?.close(),
  };
}

/** The app on a port, and a client of its WebSockets that keeps all frames and lets a test wait for one. */
import { connect as connectTcp } from "node:net";
import WebSocket from "ws";
import type { Frame } from "../../src/relay/frames.ts";
import { serve } from "../../src/serve.ts";
import type { Json, TestApp } from "./app.ts";

export interface SocketOptions {
  token?: string;
  headers?: Record<string, string>;
  protocols?: string[];
}

export type Server = Awaited<ReturnType<typeof listen>>;

/** The API of a test app, listening on a free port of the loopback. */
export async function listen(app: TestApp) {
  const { sql, secrets, storage, log, databaseUrl } = app;
  const config = { ...app.config, host: "127.0.0.1", port: 0 };
  const api = app.deno ?? (await serve({ config, databaseUrl, sql, secrets, storage, log }));
  app.onClose(() => api.stop());
  return {
    port: api.port,
    stop: () => api.stop(),
    watch: (path: string, options?: SocketOptions) => Watch.open(`ws://127.0.0.1:${api.port}/api/${path}`, options),
  };
}

/** One socket. `state` is what a client holds that applies every frame: it must always be what GET answers. */
export class Watch {
  readonly frames: Frame[] = [];
  state: Json = null;
  readonly closed: Promise<{ code: number; reason: string }>;
  private waiting: { matches: (frame: Frame) => boolean; resolve: (frame: Frame) => void; fail: (e: Error) => void }[] =
    [];

  private constructor(readonly socket: WebSocket) {
    socket.on("message", (data) => this.receive(JSON.parse(String(data))));
    this.closed = new Promise((resolve) => {
      socket.on("close", (code, reason) => {
        resolve({ code, reason: String(reason) });
        for (const { fail } of this.waiting) fail(new Error(`the socket closed with ${code} ${reason}`));
      });
    });
  }

  /** Waits for the snapshot. */
  static async open(url: string, { token, headers, protocols }: SocketOptions = {}): Promise<Watch> {
    const all = { ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }), ...headers };
    const watch = new Watch(new WebSocket(url, protocols, { headers: all }));
    await watch.next((frame) => frame.type === "snapshot");
    return watch;
  }

  private receive(frame: Frame): void {
    this.frames.push(frame);
    if (frame.type === "snapshot") this.state = { ...frame.data };
    else if (frame.type === "update") Object.assign(this.state, frame.data);
    this.waiting = this.waiting.filter((waiter) => {
      if (!waiter.matches(frame)) return true;
      waiter.resolve(frame);
      return false;
    });
  }

  /** The next frame to come that matches; fails when the socket closes before. */
  next(matches: (frame: Frame) => boolean): Promise<Frame> {
    return new Promise((resolve, fail) => this.waiting.push({ matches, resolve, fail }));
  }

  /** Waits until the state is as wanted; at once when it is already. */
  async until(holds: (state: Json) => boolean): Promise<Json> {
    if (!holds(this.state)) await this.next(() => holds(this.state));
    return this.state;
  }

  /** Every value that a field had, in order. */
  valuesOf(field: string): Json[] {
    return this.frames.flatMap((frame) => (frame.type !== "delete" && field in frame.data ? [frame.data[field]] : []));
  }

  get types(): string[] {
    return this.frames.map((frame) => frame.type);
  }

  close(): Promise<unknown> {
    this.socket.close();
    return this.closed;
  }
}

/**
 * The answer to a bare handshake, head and body: clients hide what they were refused with. An accepted one has status
 * 101 and is broken off.
 */
export function handshake(
  port: number,
  path: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; headers: Headers; body: string }> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp(port, "127.0.0.1");
    const all: Record<string, string> = {
      Host: `127.0.0.1:${port}`,
      Connection: "Upgrade",
      Upgrade: "websocket",
      "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
      ...headers,
    };
    const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
    let received = Buffer.alloc(0);
    socket.on("error", reject);
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      const end = received.indexOf("\r\n\r\n");
      if (end < 0) return;
      const [first = "", ...rest] = received.subarray(0, end).toString().split("\r\n");
      const status = Number(first.split(" ")[1]);
      const answered = new Headers(rest.map((line) => line.split(/: ?(.*)/, 2) as [string, string]));
      const body = received.subarray(end + 4);
      if (status !== 101 && body.length < Number(answered.get("content-length") ?? 0)) return;
      socket.destroy();
      resolve({ status, headers: answered, body: status === 101 ? "" : body.toString() });
    });
  });
}

/** Asks again and again until it is so; the test's own time limit ends it. For what sends no event. */
export async function eventually<T>(ask: () => Promise<T>, isSo: (value: T) => boolean): Promise<T> {
  for (;;) {
    const value = await ask();
    if (isSo(value)) return value;
    await Bun.sleep(20);
  }
}

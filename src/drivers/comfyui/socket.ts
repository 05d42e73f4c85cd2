/**
 * The engine's WebSocket, kept open for as long as a run is watched. It only makes the picture smoother: every frame
 * may be lost without harm.
 */
import WebSocket from "ws";
import type { ComfyClient } from "./client.ts";
import { type Frame, greeting, parseFrame } from "./frames.ts";

const handshakeTimeoutMs = 10_000;
const reconnectMs = { first: 250, most: 10_000 };
/** An engine that is gone without a word is noticed within two of these. */
const pingMs = 15_000;

export class EngineSocket {
  private socket: WebSocket | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pings: ReturnType<typeof setInterval> | undefined;
  private failures = 0;
  private isClosed = false;
  /** Counts connections: the same number before and after means that the engine did not restart in between. */
  connection = 0;
  isOpen = false;
  /** When the last frame of any kind came, or the connection was made or first tried. */
  heardAt = Date.now();

  constructor(
    private readonly client: ComfyClient,
    private readonly clientId: string,
    private readonly onFrame: (frame: Frame) => void,
    private readonly onDrop: () => void,
  ) {
    this.connect();
  }

  /** Gives up a connection that has gone silent and makes a new one. */
  restart(): void {
    this.drop();
    this.connect();
  }

  close(): void {
    this.isClosed = true;
    this.drop();
  }

  private connect(): void {
    const { authorization, tls } = this.client;
    const socket = new WebSocket(this.client.socketUrl(this.clientId), {
      headers: authorization,
      handshakeTimeout: handshakeTimeoutMs,
      // Node's ws takes the CA as it is, Bun's wants it under `tls`.
      ...(tls && { ...tls, tls }),
    });
    this.socket = socket;
    const lose = () => {
      // An error is followed by a close, and an old connection may report after a new one has been made.
      if (this.socket !== socket) return;
      const wasOpen = this.isOpen;
      this.drop();
      if (this.isClosed) return;
      const waitMs = Math.min(reconnectMs.first * 2 ** this.failures++, reconnectMs.most);
      this.timer = setTimeout(() => this.connect(), waitMs);
      if (wasOpen) this.onDrop();
    };
    socket.on("open", () => {
      if (this.socket !== socket) return;
      this.failures = 0;
      this.connection++;
      this.isOpen = true;
      this.heardAt = Date.now();
      socket.send(greeting);
      this.keepAlive(socket, lose);
    });
    socket.on("message", (message, isBinary) => {
      if (this.socket !== socket) return;
      this.heardAt = Date.now();
      const frame = parseFrame(isBinary ? bytesOf(message) : message.toString());
      if (frame) this.onFrame(frame);
    });
    socket.on("error", lose);
    socket.on("close", lose);
    // Without a listener, ws waits for someone to read the refusal.
    socket.on("unexpected-response", lose);
  }

  private keepAlive(socket: WebSocket, lose: () => void): void {
    let isAnswered = true;
    socket.on("pong", () => {
      isAnswered = true;
    });
    this.pings = setInterval(() => {
      if (!isAnswered) return lose();
      isAnswered = false;
      socket.ping();
    }, pingMs);
  }

  /**
   * Ends the present connection at once and for certain. The engine forgets a client when its old connection ends, also
   * if a new one has taken over the id by then: so the old one must not linger.
   */
  private drop(): void {
    clearTimeout(this.timer);
    clearInterval(this.pings);
    const socket = this.socket;
    this.socket = null;
    this.isOpen = false;
    if (!socket) return;
    if (socket.readyState === WebSocket.OPEN) socket.close(1000);
    socket.terminate();
  }
}

function bytesOf(message: WebSocket.RawData): Uint8Array {
  if (Array.isArray(message)) return Buffer.concat(message);
  return message instanceof ArrayBuffer ? new Uint8Array(message) : message;
}

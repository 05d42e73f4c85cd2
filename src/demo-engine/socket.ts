/** The WebSocket side: who listens under which client id, and the frames ComfyUI sends. */
import { randomUUID } from "node:crypto";

/** What a socket needs to be able to do; Bun's server sockets can. */
export interface Socket {
  send(data: string | Uint8Array): unknown;
  close(): void;
}

/** Kinds of binary frames, the first four bytes of each. */
const previewFrame = 1;
const previewWithMetadataFrame = 4;
/** The picture type of a `previewFrame`. */
const jpegType = 1;

/** A preview's whereabouts, for clients that announced `supports_preview_metadata`. */
export interface PreviewMetadata {
  node_id: string;
  display_node_id: string;
  real_node_id: string;
  parent_node_id: string | null;
  prompt_id: string;
}

export class SocketHub {
  private readonly sockets = new Map<string, Socket>();
  private readonly wantsMetadata = new Set<string>();
  /** Ids of prompts whose events are sent twice: a fault. */
  readonly doubled = new Set<string>();

  constructor(private readonly features: Record<string, unknown>) {}

  /**
   * Registers a socket; one that holds the id already stays open but hears nothing more.
   * @returns the id, which is made up when the client gave none
   */
  open(clientId: string, socket: Socket): string {
    const id = clientId === "" ? randomUUID().replaceAll("-", "") : clientId;
    this.sockets.set(id, socket);
    this.wantsMetadata.delete(id);
    return id;
  }

  /**
   * Ends the registration under `id`. As in ComfyUI this is also done for a socket that had been taken over, and
   * then cuts off its successor: a driver has to live with that, so it has to be met here.
   */
  close(id: string): void {
    this.sockets.delete(id);
    this.wantsMetadata.delete(id);
  }

  /** The one message that clients may send: their feature flags. */
  receive(id: string, socket: Socket, message: string): void {
    let parsed: { type?: unknown; data?: { supports_preview_metadata?: unknown } };
    try {
      parsed = JSON.parse(message);
    } catch {
      return; // ComfyUI logs it and goes on.
    }
    if (parsed?.type !== "feature_flags") return;
    if (parsed.data?.supports_preview_metadata === true) this.wantsMetadata.add(id);
    socket.send(JSON.stringify({ type: "feature_flags", data: this.features }));
  }

  /** Sends one event to one client, or to all with null. An absent client is no error. */
  send(type: string, data: Record<string, unknown>, clientId: string | null): void {
    const frame = JSON.stringify({ type, data });
    const sockets = clientId === null ? [...this.sockets.values()] : [this.sockets.get(clientId)];
    const copies = this.doubled.has(String(data.prompt_id)) ? 2 : 1;
    for (const socket of sockets) for (let copy = 0; copy < copies; copy++) socket?.send(frame);
  }

  /** Whether anybody would see a preview for `clientId`: drawing one for nobody is wasted. */
  isListening(clientId: string | null): boolean {
    return clientId === null ? this.sockets.size > 0 : this.sockets.has(clientId);
  }

  /** Sends a JPEG preview in the form that each client understands. */
  sendPreview(jpeg: Uint8Array, metadata: PreviewMetadata, clientId: string | null): void {
    const ids = clientId === null ? [...this.sockets.keys()] : [clientId];
    for (const id of ids) {
      const frame = this.wantsMetadata.has(id) ? withMetadata(jpeg, metadata) : plain(jpeg);
      this.sockets.get(id)?.send(frame);
    }
  }

  closeAll(): void {
    for (const socket of this.sockets.values()) socket.close();
    this.sockets.clear();
  }
}

function plain(jpeg: Uint8Array): Uint8Array {
  const frame = Buffer.alloc(8 + jpeg.length);
  frame.writeUInt32BE(previewFrame, 0);
  frame.writeUInt32BE(jpegType, 4);
  frame.set(jpeg, 8);
  return frame;
}

function withMetadata(jpeg: Uint8Array, metadata: PreviewMetadata): Uint8Array {
  const json = Buffer.from(JSON.stringify({ ...metadata, image_type: "image/jpeg" }));
  const head = Buffer.alloc(8);
  head.writeUInt32BE(previewWithMetadataFrame, 0);
  head.writeUInt32BE(json.length, 4);
  return Buffer.concat([head, json, jpeg]);
}

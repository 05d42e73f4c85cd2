/** HTTP to one ComfyUI, and where its WebSocket is. */
import { HttpClient } from "../http.ts";

export class ComfyClient extends HttpClient {
  socketUrl(clientId: string): string {
    return `${this.target.tls ? "wss" : "ws"}://${this.host}/ws?clientId=${encodeURIComponent(clientId)}`;
  }
}

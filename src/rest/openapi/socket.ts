/** OpenAPI has no words for WebSockets: prose for readers, and an extension for tools. */
import type { Resource } from "../define.ts";
import { ref } from "./types.ts";

export const socketProtocol = "atelier.v1";

export const socketCloseCodes = {
  1000: "The object is gone, or out of the caller's sight",
  1001: "The server stops; connect again",
  1009: "A message of the client's was above 64 KB",
  1013: "The client stopped reading",
  4401: "The session has ended: revoked, expired or deleted",
};

export function socketText({ singular }: Resource): string {
  return [
    `**WebSocket.** The same path with \`Upgrade: websocket\` watches the ${singular}: first a \`snapshot\` frame, then an`,
    "`update` with the changed fields after every committed change, whoever made it; `delete` when it is gone. Snapshot",
    "plus updates always equals what GET answers, and `version` never decreases. Who may GET it may watch it; refusals",
    `are HTTP answers. The token comes in the headers or, for browsers, among the subprotocols: \`${socketProtocol},`,
    "bearer.<token>`; never in the URL. The frames are described under `x-websocket`.",
  ].join("\n");
}

/** @param frame name of the frames' schema */
export function socketNotes(frame: string) {
  return {
    subprotocols: [socketProtocol, "bearer.<token>"],
    answers: socketProtocol,
    frame: ref(frame),
    closeCodes: socketCloseCodes,
  };
}

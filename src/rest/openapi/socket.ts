/** OpenAPI has no words for WebSockets: prose for readers, and an extension for tools. */
import type { Resource } from "../define.ts";
import { type Answer, type Parameter, ref } from "./types.ts";

export const socketProtocol = "atelier.v1";

export const socketCloseCodes = {
  1000: "The object is gone, or out of the caller's sight",
  1001: "The server stops; connect again",
  1009: "A message of the client's was above 64 KB",
  1013: "The client has stopped reading",
  4401: "The session has ended: revoked, expired or deleted",
};

export function socketText({ singular }: Resource): string {
  return [
    `**WebSocket.** The same path with \`Upgrade: websocket\` watches the ${singular}: first a \`snapshot\` frame, then an`,
    "`update` with the changed fields after every committed change, whoever made it; `delete` when it is gone. Snapshot",
    "plus updates always equals what GET answers, and `version` never decreases. Who may GET it may watch it; refusals",
    `are HTTP answers. The token comes in the headers or, for browsers, among the subprotocols: \`${socketProtocol},`,
    "bearer.<token>`; never in the URL. The frames are described under `x-websocket`.",
    "",
    eventsText,
  ].join("\n");
}

export function listSocketText({ name }: Resource): string {
  return [
    `**WebSocket.** The same path and query with \`Upgrade: websocket\` watches the list: first a \`snapshot\` frame with the`,
    `page, then \`create\`, \`update\` and \`delete\` for all ${name} that meet the conditions, wherever in the order they`,
    "lie. Token and refusals are those of a single object's socket.",
    "",
    eventsText,
  ].join("\n");
}

const eventsText = [
  "**Server-sent events.** `Accept: text/event-stream` gives the same frames as events: the type as `event`, the version",
  "as `id`, the frame as `data`. At the end comes an event `close` with the socket's close code.",
].join("\n");

export const lastEventId: Parameter = {
  name: "Last-Event-ID",
  in: "header",
  description:
    "With `Accept: text/event-stream`: the version that the caller holds. No snapshot comes unless it is older",
  schema: { type: "string" },
};

/** A 200 that is also given as events. */
export function withEvents(answer: Answer): Answer {
  const events = { schema: { type: "string", description: "The frames of `x-websocket` as events" } };
  return { ...answer, content: { ...answer.content, "text/event-stream": events } };
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

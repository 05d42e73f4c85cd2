/** WebSockets on the objects' own paths, over Bun's native server. */
import type { Server, ServerWebSocket, WebSocketHandler } from "bun";
import { findViewer, readToken, type Viewer } from "../auth/viewer.ts";
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { resourcesByName } from "../resources/index.ts";
import type { Follower, Hub } from "./hub.ts";

export const protocol = "atelier.v1";

export interface SocketData {
  name: string;
  id: number | string;
  viewer: Viewer;
  follower: Follower | null;
}

/**
 * Answers an upgrade request: a refusal is exactly what GET answers (401, 403, 404 …), so that the two can never
 * disagree on who may see what. Undefined once the connection is a socket.
 *
 * The token comes in the headers or, from browsers, among the offered subprotocols as `bearer.<token>`. The answer
 * always names `atelier.v1`: Bun would otherwise echo the first offer, which may be the token.
 */
export async function upgrade(
  request: Request,
  server: Server<SocketData>,
  { answer, sql }: { answer: (request: Request) => Response | Promise<Response>; sql: Sql },
): Promise<Response | undefined> {
  const offered = (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((part) => part.trim());
  const headers = new Headers(request.headers);
  for (const name of [...headers.keys()]) if (/^(upgrade|connection|sec-websocket-)/.test(name)) headers.delete(name);
  headers.delete("if-none-match");
  const bearer = offered.find((part) => part.startsWith("bearer."));
  if (bearer && !headers.has("authorization") && !headers.has("token")) {
    headers.set("authorization", `Bearer ${bearer.slice("bearer.".length)}`);
  }
  const [, api, name = "", id = "", ...rest] = new URL(request.url).pathname.split("/");
  const resource = api === "api" && id !== "" && rest.length === 0 ? resourcesByName.get(name) : undefined;
  const response = await answer(new Request(request.url, { headers }));
  if (!resource || response.status !== 200) return response;
  if (offered[0] !== "" && !offered.includes(protocol)) {
    const problem = new Problem("invalid-query", { detail: `Offer the subprotocol ${protocol}` });
    return Response.json(problem, { status: 400, headers: { "Content-Type": "application/problem+json" } });
  }
  const viewer = await findViewer(sql, readToken(headers));
  const topicId = resource.id === "integer" ? Number(id) : decodeURIComponent(id);
  const isUpgraded = server.upgrade(request, {
    headers: offered[0] === "" ? {} : { "Sec-WebSocket-Protocol": protocol },
    data: { name, id: topicId, viewer, follower: null },
  });
  return isUpgraded ? undefined : new Response("this is no WebSocket handshake", { status: 400 });
}

export function createSocketHandler(hub: Hub): WebSocketHandler<SocketData> {
  return {
    maxPayloadLength: 64 * 1024,
    backpressureLimit: 1024 * 1024,
    closeOnBackpressureLimit: true,
    idleTimeout: 120,
    sendPings: true,
    open(socket: ServerWebSocket<SocketData>) {
      const { name, id, viewer } = socket.data;
      const follower: Follower = {
        send: (text) => socket.send(text),
        close: (code, reason) => socket.close(code, reason),
      };
      socket.data.follower = follower;
      hub.subscribe(name, id, viewer, follower);
    },
    message() {
      // Sockets only speak; whatever a client says is ignored.
    },
    close(socket: ServerWebSocket<SocketData>) {
      const { name, id, follower } = socket.data;
      if (follower) hub.unsubscribe(name, id, follower);
    },
  };
}

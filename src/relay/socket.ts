/** WebSockets on the objects' own paths: who gets one, and what it follows. */
import { findViewer, readToken } from "../auth/viewer.ts";
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { resourcesByName } from "../resources/index.ts";
import type { Upgrade } from "../runtime/runtime.ts";
import type { Hub } from "./hub.ts";

export const protocol = "atelier.v1";

/**
 * Answers an upgrade request: a refusal is exactly what GET answers (401, 403, 404 …), so that the two can never
 * disagree on who may see what.
 *
 * The token comes in the headers or, from browsers, among the offered subprotocols as `bearer.<token>`. The answer
 * names `atelier.v1` and never the token.
 */
export async function upgrade(
  request: Request,
  { answer, sql, hub }: { answer: (request: Request) => Response | Promise<Response>; sql: Sql; hub: Hub },
): Promise<Response | Upgrade> {
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
  return {
    protocol: offered[0] === "" ? null : protocol,
    open(follower) {
      hub.subscribe(name, topicId, viewer, follower);
      return () => hub.unsubscribe(name, topicId, follower);
    },
  };
}

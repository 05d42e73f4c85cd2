/** WebSockets on the paths of objects and lists. */
import { Problem } from "../problems.ts";
import type { Socket, Upgrade, Visitor } from "../runtime/runtime.ts";
import { type Admitted, admit, type RelayDeps, refusal } from "./admission.ts";
import { Follower } from "./follower.ts";
import type { Message } from "./frames.ts";
import type { Hub } from "./hub.ts";
import type { Stay } from "./places.ts";

export const protocol = "atelier.v1";

/**
 * Answers an upgrade request. The token comes in the headers or, from browsers, among the offered subprotocols as
 * `bearer.<token>`. The answer names `atelier.v1` and never the token.
 */
export async function upgrade(
  request: Request,
  address: string | undefined,
  deps: RelayDeps,
): Promise<Response | Upgrade> {
  const offered = (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((part) => part.trim());
  const headers = new Headers(request.headers);
  for (const name of [...headers.keys()]) if (/^(upgrade|connection|sec-websocket-)/.test(name)) headers.delete(name);
  headers.delete("if-none-match");
  const bearer = offered.find((part) => part.startsWith("bearer."));
  if (bearer && !headers.has("authorization") && !headers.has("token")) {
    headers.set("authorization", `Bearer ${bearer.slice("bearer.".length)}`);
  }
  const admitted = await admit(new Request(request.url, { headers }), address, deps);
  if (admitted instanceof Response) {
    // What is no resource can be read and not watched.
    return admitted.status === 200
      ? refusal(new Problem("not-found", { detail: "There is nothing to watch" }))
      : admitted;
  }
  if (offered[0] !== "" && !offered.includes(protocol)) {
    admitted.stay.leave();
    return refusal(new Problem("invalid-query", { detail: `Offer the subprotocol ${protocol}` }));
  }
  return { protocol: offered[0] === "" ? null : protocol, visitor: new SocketFollower(admitted, deps.hub) };
}

class SocketFollower extends Follower implements Visitor {
  private readonly stay: Stay;

  constructor(
    { viewer, target, stay }: Admitted,
    private readonly hub: Hub,
  ) {
    super(viewer, target, toText);
    this.stay = stay;
  }

  opened(socket: Socket): void {
    this.attach(socket);
    this.hub.follow(this);
  }

  closed(): void {
    this.end();
    this.hub.unfollow(this);
    this.stay.leave();
  }
}

function toText({ text }: Message): string {
  return text;
}

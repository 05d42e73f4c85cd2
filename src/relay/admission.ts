/** Who may watch what: a refusal is exactly what GET answers, so that the two can never disagree. */
import { randomUUID } from "node:crypto";
import { findViewer, readToken, type Viewer } from "../auth/viewer.ts";
import type { Sql } from "../db/client.ts";
import { Problem, problemOfDatabase } from "../problems.ts";
import { resourcesByName } from "../resources/index.ts";
import type { Context } from "../rest/define.ts";
import type { Target } from "./follower.ts";
import type { Hub } from "./hub.ts";
import type { Places, Stay } from "./places.ts";

export interface RelayDeps {
  /** The app's answer to a request. */
  answer: (request: Request, address: string | undefined) => Response | Promise<Response>;
  sql: Sql;
  hub: Hub;
  places: Places;
  /** The caller's address, as far as proxies are believed; see src/auth/address.ts. */
  readAddress: (socketAddress: string | undefined, forwardedFor: string | null) => string;
  contextFor: (viewer: Viewer) => Promise<Context>;
}

export interface Admitted {
  target: Target;
  viewer: Viewer;
  /** What GET answers. */
  answer: Response;
  /** To be left when the connection has ended. */
  stay: Stay;
}

/**
 * Makes no functions, which would keep the request and its answer in memory for as long as the connection lasts.
 *
 * @param request as a plain GET; a Response is what the caller is refused with, or what is no resource's
 */
export async function admit(
  request: Request,
  address: string | undefined,
  deps: RelayDeps,
): Promise<Response | Admitted> {
  const url = new URL(request.url);
  const target = readTarget(url);
  if (!target) return deps.answer(request, address);
  let stay: Stay | null = null;
  try {
    stay = deps.places.enter(deps.readAddress(address, request.headers.get("x-forwarded-for")));
    const answer = await deps.answer(request, address);
    if (answer.status !== 200) {
      stay.leave();
      return answer;
    }
    const viewer = await findViewer(deps.sql, readToken(request.headers));
    if (viewer.id !== null) deps.places.enterUser(stay, viewer.id);
    const { name } = target;
    return {
      target: "id" in target ? target : { name, query: url.searchParams, context: await deps.contextFor(viewer) },
      viewer,
      answer,
      stay,
    };
  } catch (error) {
    stay?.leave();
    const problem = error instanceof Problem ? error : problemOfDatabase(error);
    if (!problem) throw error;
    return refusal(problem);
  }
}

/** The object or the list that a path names; null for other paths. */
function readTarget({ pathname }: URL): { name: string; id: number | string } | { name: string } | null {
  const [, api, name = "", id = "", ...rest] = pathname.split("/");
  const resource = api === "api" && rest.length === 0 ? resourcesByName.get(name) : undefined;
  if (!resource) return null;
  // The name is the resource's own: a part of the path would keep the whole path.
  if (id === "") return pathname.endsWith("/") ? null : { name: resource.name };
  if (resource.id === "integer") return { name: resource.name, id: Number(id) };
  try {
    return { name: resource.name, id: decodeURIComponent(id) };
  } catch {
    return null; // GET refuses it
  }
}

export function refusal(problem: Problem): Response {
  return new Response(JSON.stringify(problem), {
    status: problem.status,
    headers: {
      "Content-Type": "application/problem+json",
      "Cache-Control": "no-store",
      "X-Request-Id": randomUUID(),
      ...problem.options.headers,
    },
  });
}

/** What the app and its routes share of HTTP. */

import type { Viewer } from "../auth/viewer.ts";
import { Problem } from "../problems.ts";
import type { Context } from "./define.ts";

/** What the server hands in beside the request. */
export interface Bindings {
  /** Address of the socket's other end. */
  address?: string;
}

export interface Env {
  Bindings: Bindings;
  Variables: { requestId: string; viewer: Viewer; context: Context };
}

export function methodNotAllowed(allow: string) {
  return () => {
    throw new Problem("method-not-allowed", { detail: `Allowed: ${allow}`, headers: { Allow: allow } });
  };
}

/** Whether `If-None-Match` names this ETag. Weakly, as RFC 9110 has it: a proxy that compresses makes `W/` of ours. */
export function isNotModified(ifNoneMatch: string | null | undefined, etag: string): boolean {
  const named = ifNoneMatch?.split(",").map((tag) => tag.trim()) ?? [];
  return named.some((tag) => tag === "*" || tag === etag || tag === `W/${etag}`);
}

/** @throws Problem "invalid-query": a detail takes no parameters, and a typing error must not pass for a filter */
export function refuseQuery(query: URLSearchParams): void {
  const errors = [...new Set(query.keys())].map((parameter) => ({ parameter, detail: "a detail takes no parameters" }));
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "A detail takes no parameters", errors });
}

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
  Variables: {
    requestId: string;
    /** The caller's, as far as it can be known; see src/auth/address.ts. */
    address: string;
    viewer: Viewer;
    context: Context;
  };
}

/** @throws Problem "invalid-query": what is read or written by its path takes no parameters */
export function refuseQuery(url: string): void {
  if (!url.includes("?")) return;
  const query = new URL(url).searchParams;
  const errors = [...new Set(query.keys())].map((parameter) => ({ parameter, detail: "is not accepted here" }));
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "No parameters are accepted here", errors });
}

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

/**
 * @param known what is taken all the same
 * @throws Problem "invalid-query": what is read or written by its path takes no parameters
 */
export function refuseQuery(url: string, known: readonly string[] = []): void {
  if (!url.includes("?")) return;
  const unknown = new Set(new URL(url).searchParams.keys()).difference(new Set(known));
  const errors = [...unknown].map((parameter) => ({ parameter, detail: "is not accepted here" }));
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "The query has faults", errors });
}

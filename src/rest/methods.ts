/** Judges a request's method before anything else about it, from the app's own table of routes. */
import type { Hono, MiddlewareHandler } from "hono";
import { Problem } from "../problems.ts";
import type { Env } from "./http.ts";

/**
 * Refuses methods that no route of a known path takes, with `Allow`; unknown paths pass, to become a 404. Reads the
 * routes at the first request, so that it may be mounted before them.
 *
 * @throws Problem "method-not-allowed"
 */
export function checkMethod(app: Hono<Env>): MiddlewareHandler<Env> {
  let table: Map<string, { pattern: RegExp; methods: string[] }[]> | null = null;
  return async (c, next) => {
    table ??= Map.groupBy(readRoutes(app), ({ path }) => branchOf(path));
    const branch = table.get(branchOf(c.req.path)) ?? [];
    const methods = branch.flatMap(({ pattern, methods }) => (pattern.test(c.req.path) ? methods : []));
    const isPreflight = c.req.method === "OPTIONS" && c.req.header("access-control-request-method") !== undefined;
    if (methods.length > 0 && !methods.includes(c.req.method) && !isPreflight) {
      const allow = methods.join(", ");
      throw new Problem("method-not-allowed", { detail: `Allowed: ${allow}`, headers: { Allow: allow } });
    }
    await next();
  };
}

/** What a path is about: few routes share it, so few patterns are tried. */
function branchOf(path: string): string {
  const [, first = "", second = ""] = path.split("/", 3);
  return first === "api" ? second : first;
}

/** Middleware is registered for every method and says nothing about what a path takes. */
function readRoutes(app: Hono<Env>) {
  const byPath = new Map<string, Set<string>>();
  for (const { path, method } of app.routes) {
    if (method === "ALL") continue;
    const methods = byPath.get(path) ?? new Set();
    for (const taken of method === "GET" ? ["GET", "HEAD"] : [method]) methods.add(taken);
    byPath.set(path, methods);
  }
  return [...byPath].map(([path, methods]) => ({
    path,
    pattern: new RegExp(
      `^${path.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(/:\w+(?:\\\{.*?\\\})?/g, "[^/]+")}$`,
    ),
    methods: [...methods],
  }));
}

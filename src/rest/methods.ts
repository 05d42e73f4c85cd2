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
  let table: { pattern: RegExp; methods: string[] }[] | null = null;
  return async (c, next) => {
    table ??= readRoutes(app);
    const methods = table.flatMap(({ pattern, methods }) => (pattern.test(c.req.path) ? methods : []));
    const isPreflight = c.req.method === "OPTIONS" && c.req.header("access-control-request-method") !== undefined;
    if (methods.length > 0 && !methods.includes(c.req.method) && !isPreflight) {
      const allow = methods.join(", ");
      throw new Problem("method-not-allowed", { detail: `Allowed: ${allow}`, headers: { Allow: allow } });
    }
    await next();
  };
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
    pattern: new RegExp(
      `^${path.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(/:\w+(?:\\\{.*?\\\})?/g, "[^/]+")}$`,
    ),
    methods: [...methods],
  }));
}

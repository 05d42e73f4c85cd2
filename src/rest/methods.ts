/** Judges a request's method before anything else about it, from the app's own table of routes. */
import type { Context, Hono } from "hono";
import { Problem } from "../problems.ts";
import type { Env } from "./http.ts";

/**
 * Makes what refuses methods that no route of a known path takes, with `Allow`; unknown paths pass, to become a 404.
 * The routes are read at the first request, so that it may be made before them.
 *
 * @throws Problem "method-not-allowed"
 */
export function createMethodCheck(app: Hono<Env>): (c: Context<Env>) => void {
  let table: Map<string, { pattern: RegExp; methods: string[] }[]> | null = null;
  return (c) => {
    table ??= Map.groupBy(readRoutes(app), ({ path }) => branchOf(path));
    const branch = table.get(branchOf(c.req.path)) ?? [];
    const methods = branch.flatMap(({ pattern, methods }) => (pattern.test(c.req.path) ? methods : []));
    const isPreflight = c.req.method === "OPTIONS" && c.req.header("access-control-request-method") !== undefined;
    if (methods.length > 0 && !methods.includes(c.req.method) && !isPreflight) {
      const allow = methods.join(", ");
      throw new Problem("method-not-allowed", { detail: `Allowed: ${allow}`, headers: { Allow: allow } });
    }
  };
}

/** What a path is about: few routes share it, so few patterns are tried. */
function branchOf(path: string): string {
  const start = path.startsWith("/api/") ? "/api/".length : 1;
  const end = path.indexOf("/", start);
  return path.slice(start, end < 0 ? undefined : end);
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

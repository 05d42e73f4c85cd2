/** Which browser pages may use the API: same origin, and those that ALLOWED_ORIGINS names. */
import type { MiddlewareHandler } from "hono";
import { Problem } from "../problems.ts";

const exposed = "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, Idempotency-Replayed, X-Request-Id";

/** Whether a page of this origin may connect. No Origin header means no browser: allowed. */
export function isAllowedOrigin(
  origin: string | null,
  requestUrl: string,
  allowed: string[],
  publicUrl: string,
): boolean {
  if (origin === null) return true;
  return allowed.includes(origin) || origin === new URL(publicUrl).origin || origin === new URL(requestUrl).origin;
}

/** CORS: answers preflights, lets allowed origins read, refuses foreign ones before anything else is judged. */
export function checkOrigin(allowed: string[], publicUrl: string): MiddlewareHandler {
  return async (c, next) => {
    const origin = c.req.header("origin") ?? null;
    if (!isAllowedOrigin(origin, c.req.url, allowed, publicUrl)) throw new Problem("origin-forbidden");
    const headers: Record<string, string> = origin
      ? { "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": exposed }
      : {};
    if (origin && c.req.method === "OPTIONS" && c.req.header("access-control-request-method")) {
      return c.body(null, 204, {
        ...headers,
        Vary: "Origin",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE",
        "Access-Control-Allow-Headers": c.req.header("access-control-request-headers") ?? "",
        "Access-Control-Max-Age": "600",
      });
    }
    await next();
    for (const [name, value] of Object.entries(headers)) c.res.headers.set(name, value);
  };
}

/** Which browser pages may use the API: same origin, and those that ALLOWED_ORIGINS names. */
import type { Context, MiddlewareHandler } from "hono";
import { Problem } from "../problems.ts";

const exposed = [
  "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, Idempotency-Replayed, X-Request-Id",
  "Tus-Resumable, Upload-Offset, Upload-Length, Upload-Expires",
].join(", ");

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

/** CORS: answers preflights and lets allowed origins read, refusals included. Judges nobody. */
export function allowOrigins(allowed: string[], publicUrl: string): MiddlewareHandler {
  return async (c, next) => {
    const origin = c.req.header("origin") ?? null;
    if (origin === null || !isAllowedOrigin(origin, c.req.url, allowed, publicUrl)) return next();
    const headers = { "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": exposed };
    if (c.req.method === "OPTIONS" && c.req.header("access-control-request-method")) {
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

/** Refuses pages of foreign origins, whatever token they hold. @throws Problem "origin-forbidden" */
export function refuseForeignOrigins(c: Context, allowed: string[], publicUrl: string): void {
  if (!isAllowedOrigin(c.req.header("origin") ?? null, c.req.url, allowed, publicUrl)) {
    throw new Problem("origin-forbidden");
  }
}

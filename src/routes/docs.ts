/** The API's own description, for programs and for people. */
import { createHash } from "node:crypto";
import { Hono } from "hono";
import { matchesNone } from "../rest/etag.ts";
import type { Env } from "../rest/http.ts";
import type { OpenApiDocument } from "../rest/openapi/document.ts";

/** @param document asked once, at the first request: by then the app has all its routes */
export function documentRoutes(document: () => OpenApiDocument) {
  let made: { text: string; etag: string } | null = null;
  const make = () => {
    const text = JSON.stringify(document());
    return { text, etag: `"${createHash("sha256").update(text).digest("base64url")}"` };
  };
  const routes = new Hono<Env>();
  routes.get("/", (c) => {
    made ??= make();
    const headers = { ETag: made.etag, "Cache-Control": "public, max-age=300" };
    if (matchesNone(c.req.header("if-none-match"), made.etag)) return c.body(null, 304, headers);
    return c.body(made.text, 200, { ...headers, "Content-Type": "application/json" });
  });
  return routes;
}

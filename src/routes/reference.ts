/**
 * The reference page at /docs: Swagger UI over our own document, served from its npm package, so that no other host is
 * ever asked. Chosen since its bundle ships whole with no other package behind it; it is released every few weeks.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Hono } from "hono";
import info from "swagger-ui-dist/package.json" with { type: "json" };
import type { Env } from "../rest/http.ts";

/** Relative to the page, so that a prefix in PUBLIC_URL does not matter; the version lets them be kept for ever. */
const base = `docs/${info.version}`;

const page = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Atelier: the API</title>
    <link rel="icon" href="${base}/favicon-32x32.png">
    <link rel="stylesheet" href="${base}/swagger-ui.css">
  </head>
  <body>
    <div id="reference"></div>
    <noscript>This page needs JavaScript. The same as data: <a href="api/openapi.json">api/openapi.json</a></noscript>
    <script src="${base}/swagger-ui-bundle.js"></script>
    <script src="${base}/start.js"></script>
  </body>
</html>
`;

/** `validatorUrl` would otherwise send the document's address to a validator elsewhere. */
const start = `SwaggerUIBundle({
  url: "api/openapi.json",
  dom_id: "#reference",
  validatorUrl: null,
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  filter: true,
  persistAuthorization: false,
});
`;

/** Nothing but our own: no other host, no inline script, no frame around it. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const types: Record<string, string> = {
  "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
  "swagger-ui.css": "text/css; charset=utf-8",
  "favicon-32x32.png": "image/png",
  "start.js": "text/javascript; charset=utf-8",
};

interface Asset {
  bytes: Uint8Array<ArrayBuffer>;
  gzipped: Uint8Array<ArrayBuffer>;
}

export function referenceRoutes() {
  const assets = new Map<string, Promise<Asset>>();
  const load = (name: string): Promise<Asset> => {
    const asset = assets.get(name) ?? readAsset(name);
    assets.set(name, asset);
    return asset;
  };
  const routes = new Hono<Env>();
  routes.get("/", (c) =>
    c.body(page, 200, {
      "Content-Type": "text/html; charset=utf-8",
      "Content-Security-Policy": policy,
      "Referrer-Policy": "no-referrer",
      "Cache-Control": "no-cache",
    }),
  );
  routes.get(`/${info.version}/:name`, async (c, next) => {
    const name = c.req.param("name");
    const type = Object.hasOwn(types, name) ? types[name] : undefined;
    if (type === undefined) return next();
    const { bytes, gzipped } = await load(name);
    const isGzipped = /\bgzip\b/.test(c.req.header("accept-encoding") ?? "");
    return c.body(isGzipped ? gzipped : bytes, 200, {
      "Content-Type": type,
      // Our own script may change while the package's version stays.
      "Cache-Control": name === "start.js" ? "no-cache" : "public, max-age=31536000, immutable",
      Vary: "Accept-Encoding",
      ...(isGzipped ? { "Content-Encoding": "gzip" } : {}),
    });
  });
  return routes;
}

/** Read and compressed once: the bundle is 1.7 MB, 0.5 MB on the wire. */
async function readAsset(name: string): Promise<Asset> {
  const bytes =
    name === "start.js"
      ? new TextEncoder().encode(start)
      : new Uint8Array(await readFile(fileURLToPath(import.meta.resolve(`swagger-ui-dist/${name}`))));
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return { bytes, gzipped: new Uint8Array(await new Response(stream).arrayBuffer()) };
}

/** The HTTP side: what all of ComfyUI's routes share. The routes themselves are in the files beside. */
import { createHash, timingSafeEqual } from "node:crypto";
import { Hono, type MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import { addDescriptions } from "./routes-describe.ts";
import { addFaults, faulty } from "./routes-faults.ts";
import { addFiles } from "./routes-files.ts";
import { addPrompts } from "./routes-prompts.ts";
import type { RouteOptions } from "./routing.ts";

/** All routes, each as `/x` and as `/api/x`. */
export function createRoutes(options: RouteOptions): Hono {
  const routes = new Hono();
  addWebSocket(routes, options);
  addDescriptions(routes, options);
  addFiles(routes, options);
  addPrompts(routes, options);
  if (options.faults) addFaults(routes, options.faults);

  const app = new Hono();
  app.use(sameOrigin);
  if (options.login !== null) app.use(basicAuth(options.login));
  app.use(
    bodyLimit({
      maxSize: options.maxUploadBytes,
      onError: (c) => c.text(`Maximum request body size ${options.maxUploadBytes} exceeded.`, 413),
    }),
  );
  if (options.faults) app.use(faulty(options.faults, options.dropSockets));
  app.route("/api", routes);
  app.route("/", routes);
  app.notFound((c) => c.text("404: Not Found", 404));
  // Malformed JSON and the like end here, bare as aiohttp answers them.
  app.onError((_, c) => c.text("500 Internal Server Error\n\nServer got itself in trouble", 500));
  return app;
}

/** A browser on another site must not reach an engine on this machine: Host and Origin have to agree. */
const sameOrigin: MiddlewareHandler = async (c, next) => {
  const host = c.req.header("host");
  const origin = c.req.header("origin");
  const isLoopback = /^(localhost|127\.|\[::1\])/i.test(host ?? "");
  if (host !== undefined && origin !== undefined && isLoopback) {
    const originHost = URL.canParse(origin) ? new URL(origin).host : "";
    if (originHost !== "" && originHost !== host.toLowerCase()) return c.body(null, 403);
  }
  return next();
};

/** Stands for the reverse proxy that guards a real engine. */
function basicAuth({ username, password }: { username: string; password: string }): MiddlewareHandler {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  const expected = hash(`Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`);
  return async (c, next) => {
    if (timingSafeEqual(hash(c.req.header("authorization") ?? ""), expected)) return next();
    return c.text("401: Unauthorized", 401, { "WWW-Authenticate": 'Basic realm="Atelier demo engine"' });
  };
}

function addWebSocket(routes: Hono, { upgrade }: RouteOptions): void {
  routes.get(
    "/ws",
    (c) => upgrade(c.req.raw, c.req.query("clientId") ?? "") ?? c.text("400: No WebSocket UPGRADE hdr", 400),
  );
}

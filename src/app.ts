/** The HTTP API: middleware, resources, routes and the error handler. Does not listen. */
import { randomUUID } from "node:crypto";
import { Hono, type Context as HonoContext } from "hono";
import type { Logger } from "pino";
import { createAddressReader } from "./auth/address.ts";
import type { Secrets } from "./auth/secrets.ts";
import { findViewer, guest, readToken } from "./auth/viewer.ts";
import type { Config } from "./config.ts";
import type { Sql } from "./db/client.ts";
import type { CatalogueSource } from "./params/catalogue.ts";
import { createOutlook } from "./pool/outlook.ts";
import { readStats } from "./pool/stats.ts";
import { Problem, problemOfDatabase } from "./problems.ts";
import { resources } from "./resources/index.ts";
import { models } from "./resources/models.ts";
import { toResponse } from "./rest/answer.ts";
import { readJson } from "./rest/body.ts";
import type { Context, Resource } from "./rest/define.ts";
import { matchesNone } from "./rest/etag.ts";
import { type Env, refuseQuery } from "./rest/http.ts";
import { answerOnce, canonicalJson, refuseKey } from "./rest/idempotency.ts";
import { readIds } from "./rest/input.ts";
import type { Links } from "./rest/links.ts";
import { createMethodCheck } from "./rest/methods.ts";
import { isMoving, isSigned } from "./rest/moving.ts";
import { createDocument } from "./rest/openapi.ts";
import { allowOrigins, refuseForeignOrigins } from "./rest/origin.ts";
import { limitRates } from "./rest/rate-limit.ts";
import { detail, list, parseId } from "./rest/read.ts";
import { create, patch, remove, type Target } from "./rest/write.ts";
import { accountRoutes } from "./routes/account.ts";
import { datasetFileRoutes } from "./routes/dataset-files.ts";
import { deliveryRoutes } from "./routes/deliveries.ts";
import { describeRoutes } from "./routes/described.ts";
import { documentRoutes } from "./routes/docs.ts";
import { fileRoutes } from "./routes/files.ts";
import { healthRoutes } from "./routes/health.ts";
import { lineageRoutes } from "./routes/lineage.ts";
import { createMetrics, metricsRoutes } from "./routes/metrics.ts";
import { poolRoutes, statsRoutes } from "./routes/pool.ts";
import { referenceRoutes } from "./routes/reference.ts";
import { resumableRoutes } from "./routes/resumable.ts";
import { modelFileRoutes } from "./routes/send-file.ts";
import { whyRoutes } from "./routes/why.ts";
import type { Storage } from "./storage/storage.ts";
import { createWebhookGuard } from "./webhooks/guard.ts";

export interface Deps {
  config: Pick<
    Config,
    | "isSignupOpen"
    | "allowedOrigins"
    | "trustedProxies"
    | "metricsToken"
    | "rateLimits"
    | "userQuotaBytes"
    | "webhookNetworks"
    | "maxWaitingPerUser"
    | "maxRunningPerUser"
  >;
  sql: Sql;
  secrets: Secrets;
  links: Links;
  storage: Storage;
  catalogue: CatalogueSource;
  log: Logger;
  listModels: Context["listModels"];
  /** Where uploads wait until they are stored. */
  temporaryDirectory: string;
}

export type App = ReturnType<typeof createApp>;

export function createApp(deps: Deps) {
  const app = new Hono<Env>();
  const { allowedOrigins, trustedProxies } = deps.config;
  const { publicUrl } = deps.links;
  const readAddress = createAddressReader(trustedProxies);
  const webhooks = createWebhookGuard(deps.config.webhookNetworks);
  const outlook = createOutlook(deps.sql, deps.config.maxRunningPerUser);

  app.onError((error, c) => {
    const problem =
      error instanceof Problem ? error : (problemOfDatabase(error) ?? new Problem("internal", { cause: error }));
    if (problem.status >= 500) {
      deps.log.error({ err: problem.options.cause ?? problem, requestId: c.get("requestId") }, "request failed");
    }
    return new Response(JSON.stringify(problem), {
      status: problem.status,
      headers: {
        "Content-Type": "application/problem+json",
        "Cache-Control": "no-store",
        "X-Request-Id": c.get("requestId"),
        ...problem.options.headers,
      },
    });
  });
  app.notFound((c) => {
    throw new Problem("not-found", { detail: `There is nothing at ${c.req.path}` });
  });

  const metrics = createMetrics(() => readStats(deps.sql, outlook));
  // Few and large: every request pays for each middleware, whatever that does.
  app.use(async (c, next) => {
    const started = performance.now();
    const requestId = randomUUID();
    c.set("requestId", requestId);
    c.set("address", readAddress(c.env?.address, c.req.header("x-forwarded-for")));
    await next();
    const { headers, status } = c.res;
    headers.set("X-Request-Id", requestId);
    headers.set("X-Content-Type-Options", "nosniff");
    const ms = performance.now() - started;
    metrics.observe(c, ms / 1000);
    const { method, path } = c.req;
    deps.log.debug({ requestId, method, path, status, ms: Math.round(ms) }, "request");
  });
  // In the contract's order: 429, 405, 403 for a foreign origin, 401; each route goes on from there.
  app.use("/api/*", allowOrigins(allowedOrigins, publicUrl), limitRates(deps.config.rateLimits));
  const checkMethod = createMethodCheck(app);
  app.use((c, next) => {
    checkMethod(c);
    if (c.req.path.startsWith("/api/")) refuseForeignOrigins(c, allowedOrigins, publicUrl);
    return next();
  });
  app.route("/", healthRoutes(deps));
  app.route("/metrics", metricsRoutes(metrics, deps.config.metricsToken));
  app.route("/docs", referenceRoutes());
  const document = documentRoutes(() => createDocument({ resources, others: describeRoutes(), publicUrl }));
  app.route("/api/openapi.json", document);
  app.use("/api/*", async (c, next) => {
    // Logging in looks at no token: a stale one must not keep anybody out.
    const isLogin = c.req.method === "POST" && c.req.path === "/api/sessions";
    c.set("viewer", isLogin ? guest : await findViewer(deps.sql, readToken(c.req.raw.headers)));
    c.set("context", {
      sql: deps.sql,
      viewer: c.get("viewer"),
      catalogue: await deps.catalogue.current(),
      links: deps.links,
      secrets: deps.secrets,
      client: {
        ip: c.get("address"),
        userAgent: c.req.header("user-agent") ?? "",
        // Asked for only by what reads URLs.
        get origin() {
          return new URL(c.req.url).origin;
        },
      },
      isSignupOpen: deps.config.isSignupOpen,
      webhooks,
      outlook,
      maxWaiting: deps.config.maxWaitingPerUser,
      listModels: deps.listModels,
    });
    await next();
    // What depends on the caller must not be served to another.
    if (!c.res.headers.has("Cache-Control")) c.res.headers.set("Cache-Control", "private, no-cache");
    c.res.headers.append("Vary", "Authorization, Token, Origin");
  });
  app.route("/api/account", accountRoutes());
  app.route("/api/files", fileRoutes(deps));
  app.route("/api/uploads", resumableRoutes(deps));
  app.route(
    "/api/models",
    modelFileRoutes(deps, async (id, context) => JSON.parse((await detail(models, id, context)).json)),
  );
  app.route("/api/pool", poolRoutes());
  app.route("/api/stats", statsRoutes());
  app.route("/api/tasks", deliveryRoutes());
  app.route("/api/images", lineageRoutes());
  app.route("/api/datasets", datasetFileRoutes(deps));
  app.route("/api/tasks", whyRoutes());
  for (const resource of resources) app.route(`/api/${resource.name}`, resourceRoutes(resource, deps));
  return app;
}

/** The five generic handlers of one resource, and their bulk forms. */
function resourceRoutes(resource: Resource, deps: Deps) {
  const routes = new Hono<Env>();
  const mergePatch = ["application/json", "application/merge-patch+json"];
  const isBulk = resource.isBulk === true;

  routes.get("/", async (c) => {
    const body = await list(resource, new URL(c.req.url).searchParams, c.get("context"));
    return toResponse({ status: 200, headers: {}, body });
  });
  if (resource.create) {
    const { by, isSecret } = resource.create;
    routes.post("/", async (c) => {
      if (by !== "guests") requireToken(c);
      const body = await readJson(c.req.raw);
      refuseQuery(c.req.url);
      if (isSecret) refuseKey(c);
      return answerOnce(
        c,
        () => canonicalJson(body),
        (once) => create(resource, body, c.get("context"), once),
      );
    });
  }
  if (isBulk && resource.patch) {
    routes.patch("/", async (c) => {
      requireToken(c);
      const body = await readJson(c.req.raw, mergePatch);
      return toResponse(await patch(resource, readBulk(resource, c), body, c.get("context")));
    });
  }
  if (isBulk && resource.remove) {
    routes.delete("/", async (c) => {
      requireToken(c);
      await remove(resource, readBulk(resource, c), c.get("context"));
      return c.body(null, 204);
    });
  }

  routes.get("/:id", async (c) => {
    refuseQuery(c.req.url);
    const { json, etag } = await detail(resource, c.req.param("id"), c.get("context"));
    // Live fields and signed URLs move without a version: an answer that holds them is never "not modified".
    if (matchesNone(c.req.header("if-none-match"), etag) && !isMoving(resource, json) && !isSigned(json)) {
      return c.body(null, 304, { ETag: etag });
    }
    return toResponse({ status: 200, headers: { ETag: etag }, body: json });
  });
  if (resource.patch) {
    routes.patch("/:id", async (c) => {
      requireToken(c);
      const body = await readJson(c.req.raw, mergePatch);
      const answer = await patch(resource, readOne(resource, c), body, c.get("context"), c.req.header("if-match"));
      if (resource.name === "params") deps.catalogue.forget();
      return toResponse(answer);
    });
  }
  if (resource.remove) {
    routes.delete("/:id", async (c) => {
      requireToken(c);
      await remove(resource, readOne(resource, c), c.get("context"), c.req.header("if-match"));
      return c.body(null, 204);
    });
  }
  return routes;
}

/** Asked before the body is read: what a guest sends is not worth parsing. */
function requireToken(c: HonoContext<Env>): void {
  if (c.get("viewer").id === null) throw new Problem("token-required");
}

function readOne(resource: Resource, c: HonoContext<Env>): Target {
  refuseQuery(c.req.url);
  return { ids: [parseId(resource, c.req.param("id") ?? "")], isBulk: false };
}

/** @throws Problem "precondition-refused": one ETag cannot speak for many objects */
function readBulk(resource: Resource, c: HonoContext<Env>): Target {
  if (c.req.header("if-match") !== undefined) {
    throw new Problem("precondition-refused", {
      detail: "If-Match speaks of one object; patch or delete it by its path",
    });
  }
  return { ids: readIds(resource, new URL(c.req.url).searchParams), isBulk: true };
}

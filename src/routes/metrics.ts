/** `/metrics` for Prometheus: of this process, of its requests, and of the pool. For loopback and holders of a token. */
import { createHash, timingSafeEqual } from "node:crypto";
import { type Context, Hono } from "hono";
import { routePath } from "hono/route";
import ipaddr from "ipaddr.js";
import { collectDefaultMetrics, Histogram, Registry } from "prom-client";
import { readToken } from "../auth/viewer.ts";
import type { Stats } from "../pool/stats.ts";
import { Problem } from "../problems.ts";
import type { Env } from "../rest/http.ts";
import { registerPoolMetrics } from "./pool-metrics.ts";

const methods: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"]);

export interface Metrics {
  /** In Prometheus' own format. */
  print(): Promise<string>;
  contentType: string;
  /** Notes how long an answered request took, by the route that answered it. */
  observe(c: Context<Env>, seconds: number): void;
}

/** @param readPool the pool's figures */
export function createMetrics(readPool: () => Promise<Stats>): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  // Those of Node's own insides are wrong or missing elsewhere.
  for (const name of registry.getMetricsAsArray().map((metric) => metric.name)) {
    if (name.startsWith("nodejs_")) registry.removeSingleMetric(name);
  }
  const requests = new Histogram({
    name: "atelier_http_request_seconds",
    help: "Time from a request's arrival to its answer's head",
    labelNames: ["method", "route", "status"],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [registry],
  });
  // Finding them by their labels takes longer than all else about them.
  const seen = new Map<string, ReturnType<typeof requests.labels>>();
  const refresh = registerPoolMetrics(registry, readPool);
  return {
    contentType: registry.contentType,
    async print() {
      await refresh();
      return registry.metrics();
    },
    observe(c, seconds) {
      const matched = routePath(c, -1);
      // A path that no route knows and a method that nobody takes are inventions: as labels they fill the memory.
      const method = methods.has(c.req.method) ? c.req.method : "other";
      const route = matched.includes("*") ? "none" : matched;
      const { status } = c.res;
      const key = `${method} ${route} ${status}`;
      const labelled = seen.get(key) ?? requests.labels({ method, route, status });
      seen.set(key, labelled);
      labelled.observe(seconds);
    },
  };
}

export function metricsRoutes(metrics: Metrics, token: string | null) {
  return new Hono<Env>().get("/", async (c) => {
    if (!isLocal(c.get("address"), c.req.raw.headers)) judgeToken(c.req.raw.headers, token);
    const text = await metrics.print();
    return c.body(text, 200, { "Content-Type": metrics.contentType, "Cache-Control": "no-store" });
  });
}

/** On this machine, and not merely passed on by a proxy there that TRUSTED_PROXIES does not name. */
function isLocal(address: string, headers: Headers): boolean {
  if (headers.has("x-forwarded-for") || headers.has("forwarded")) return false;
  return ipaddr.isValid(address) && ipaddr.process(address).range() === "loopback";
}

function judgeToken(headers: Headers, token: string | null): void {
  const given = readToken(headers);
  if (given === null) throw new Problem("token-required");
  const digest = (text: string) => createHash("sha256").update(text).digest();
  if (token === null || !timingSafeEqual(digest(given), digest(token))) throw new Problem("token-invalid");
}

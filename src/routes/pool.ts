/** The operator's side of the pool: pause, resume, figures. For admins. */
import { Hono } from "hono";
import { z } from "zod";
import { storedSchema } from "../params/catalogue.ts";
import { readStats, type Stats } from "../pool/stats.ts";
import { reasonCodes } from "../pool/why.ts";
import { Problem } from "../problems.ts";
import { act } from "../rest/action.ts";
import type { Context } from "../rest/define.ts";
import { type Env, refuseQuery } from "../rest/http.ts";

export function poolRoutes() {
  const routes = new Hono<Env>();

  /** Nothing is dispatched any more; what runs goes on. */
  routes.post("/pause", async (c) => {
    requireAdmin(c.get("context"));
    return act(c, async ({ sql }) => {
      await sql`update pool set is_paused = true, paused_at = now() where not is_paused`;
      return { status: 204, headers: {}, body: "" };
    });
  });

  routes.post("/resume", async (c) => {
    requireAdmin(c.get("context"));
    return act(c, async ({ sql }) => {
      await sql`update pool set is_paused = false, paused_at = null where is_paused`;
      await sql`select pg_notify('pool', '')`;
      return { status: 204, headers: {}, body: "" };
    });
  });
  return routes;
}

export function statsRoutes() {
  return new Hono<Env>().get("/", async (c) => {
    const { sql, outlook } = c.get("context");
    requireAdmin(c.get("context"));
    refuseQuery(c.req.url);
    return c.json(await readStats(sql, outlook));
  });
}

const counts = <T extends z.ZodType>(one: T) => z.object({ train: one, infer: one });
const count = z.int().nonnegative();
const workType = z.enum(["train", "infer"]);

export const stats = z.object({
  paused: z.boolean(),
  workers: z.object({ alive: count, room: count.meta({ description: "Tasks more that they can attend" }) }),
  waiting: z.object({
    total: count,
    by_type: counts(count),
    by_reason: z
      .array(z.object({ type: workType, reason: z.enum(reasonCodes), tasks: count }))
      .meta({ description: "By what keeps them first, the most frequent first" }),
  }),
  running: counts(count),
  throughput: counts(z.object({ success: count, error: count, retry: count, canceled: count })).meta({
    description: "Attempts that ended in the last hour, by how; `retry` went back into the queue",
  }),
  wait_seconds: counts(z.object({ p50: z.number(), p90: z.number() }).nullable()).meta({
    description: "From when a task could go to when it went, of the attempts that ended in the last hour",
  }),
  servers: z.array(
    z.object({
      id: z.int(),
      name: z.string(),
      type: workType,
      status: storedSchema("server", "status"),
      slots: count,
      running: count,
      foreign_runs: count.meta({ description: "Runs on its engine that are not ours" }),
      use: z.number().meta({ description: "Share of its slots' time in the last hour that our tasks had" }),
    }),
  ),
  webhooks: z.object({
    pending: count,
    failed: count.meta({ description: "Given up in the last hour" }),
  }),
}) satisfies z.ZodType<Stats>;

/** @throws Problem "token-required", "forbidden" */
function requireAdmin({ viewer }: Context): void {
  if (viewer.id === null) throw new Problem("token-required");
  if (!viewer.admin) throw new Problem("forbidden", { detail: "Only admins may do this" });
}

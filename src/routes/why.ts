/** Why a task does not run yet: for whoever may see the task. */
import { Hono } from "hono";
import { z } from "zod";
import { explain, reasonCodes } from "../pool/why.ts";
import { tasks } from "../resources/tasks.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { findShown, notFound, parseId } from "../rest/read.ts";

export const explanation = z.object({
  reasons: z
    .array(
      z.object({
        code: z.enum(reasonCodes),
        detail: z.string(),
        unblock: z.string().meta({ description: "What has to happen" }),
      }),
    )
    .meta({ description: "All that keeps it, in order; empty when it runs or is over" }),
});

export function whyRoutes() {
  return new Hono<Env>().get("/:id/why", async (c) => {
    const context = c.get("context");
    refuseQuery(c.req.url);
    const id = parseId(tasks, c.req.param("id"));
    if (!(await findShown(tasks, id, context))) throw notFound(tasks, id);
    return c.json({ reasons: await explain(context.sql, context.outlook, id as number) });
  });
}

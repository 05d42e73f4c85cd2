/** The log of a task's webhook, and sending again what is in it. For the task's owner and admins. */
import { Hono } from "hono";
import { z } from "zod";
import { Problem } from "../problems.ts";
import { tasks } from "../resources/tasks.ts";
import { act } from "../rest/action.ts";
import type { Context, Row } from "../rest/define.ts";
import type { Env } from "../rest/http.ts";
import { parsePaging, toPage } from "../rest/paging.ts";
import { notFound, parseId } from "../rest/read.ts";
import { listDeliveries, redeliver } from "../webhooks/deliveries.ts";

const instant = z.iso.datetime();

export const delivery = z.object({
  n: z.int().positive().meta({ description: "Counts the task's deliveries from 1" }),
  id: z.string().meta({ description: "The receiver sees it as `webhook-id`, the same at every attempt" }),
  event: z.string().meta({ examples: ["task.success"] }),
  url: z.url(),
  status: z.enum(["pending", "delivered", "failed"]),
  attempts: z.array(
    z.object({
      at: instant,
      status_code: z.int().nullable(),
      error: z.string().nullable(),
      ms: z.int().nonnegative(),
    }),
  ),
  next_attempt_at: instant.nullable(),
  payload: z.record(z.string(), z.unknown()).meta({ description: "What is sent" }),
  created_at: instant,
  settled_at: instant.nullable(),
});

export function deliveryRoutes() {
  const routes = new Hono<Env>();

  routes.get("/:id/deliveries", async (c) => {
    const context = c.get("context");
    requireUser(context);
    const paging = parsePaging(new URL(c.req.url).searchParams);
    const taskId = await getOwnTask(context, c.req.param("id"));
    const { pageSize: limit, offset } = paging;
    const [list, [sum]] = await Promise.all([
      listDeliveries(context.sql, taskId, { limit, offset }),
      context.sql<{ total: number }[]>`select count(*) as total from deliveries where task_id = ${taskId}`,
    ]);
    return c.json(toPage(paging, sum?.total ?? 0, list));
  });

  routes.post("/:id/deliveries/:n/redeliver", async (c) => {
    requireUser(c.get("context"));
    const { id, n: number } = c.req.param();
    return act(c, async (inside) => {
      const taskId = await getOwnTask(inside, id);
      const n = /^[1-9]\d{0,8}$/.test(number) ? Number(number) : 0;
      if (!(await redeliver(inside.sql, taskId, n))) {
        throw new Problem("not-found", { detail: `Task ${taskId} has no delivery ${number}` });
      }
      const [again] = await listDeliveries(inside.sql, taskId, { limit: 1, offset: 0, n });
      return { status: 202, headers: {}, body: JSON.stringify(again) };
    });
  });
  return routes;
}

function requireUser({ viewer }: Context): void {
  if (viewer.id === null) throw new Problem("token-required");
}

/** @throws Problem "not-found" for what is missing or invisible, "forbidden" for what is merely not the caller's */
async function getOwnTask(context: Context, idText: string): Promise<number> {
  const { sql, viewer } = context;
  const id = parseId(tasks, idText);
  const [row] = await sql<Pick<Row, "owner_id">[]>`
    select ${sql.unsafe(tasks.owner)} as owner_id from tasks t where t.id = ${id} and ${tasks.visible(context)}
  `;
  if (!row) throw notFound(tasks, id);
  if (!tasks.mayWrite(viewer, row as Row)) {
    throw new Problem("forbidden", { detail: "Only its owner sees where a task's webhook goes" });
  }
  return id as number;
}

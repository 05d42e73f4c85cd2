/** The operator's side of the pool: pause and resume. For admins. */
import { Hono } from "hono";
import { Problem } from "../problems.ts";
import { act } from "../rest/action.ts";
import type { Context } from "../rest/define.ts";
import type { Env } from "../rest/http.ts";

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

/** @throws Problem "token-required", "forbidden" */
export function requireAdmin({ viewer }: Context): void {
  if (viewer.id === null) throw new Problem("token-required");
  if (!viewer.admin) throw new Problem("forbidden", { detail: "Only admins may do this" });
}

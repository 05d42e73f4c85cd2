/** Whether the process lives, and whether it can work. For anyone. */
import { Hono } from "hono";
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";

export function healthRoutes({ sql }: { sql: Sql }) {
  return new Hono()
    .get("/healthz", (c) => c.json({ status: "ok" }))
    .get("/readyz", async (c) => {
      const [row] = await sql<{ is_migrated: boolean }[]>`select to_regclass('params') is not null as is_migrated`;
      if (!row?.is_migrated) {
        throw new Problem("database-unavailable", {
          detail: "The database is not migrated",
          headers: { "Retry-After": "2" },
        });
      }
      return c.json({ status: "ready" });
    });
}

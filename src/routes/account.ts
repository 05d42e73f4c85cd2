/** The caller's own account. */
import { Hono, type Context as HonoContext } from "hono";
import { z } from "zod";
import { verifyPassword } from "../auth/password.ts";
import { invalid, Problem } from "../problems.ts";
import { name } from "../resources/common.ts";
import { email, hashInput, password, users } from "../resources/users.ts";
import { readJson } from "../rest/body.ts";
import type { Context, Input } from "../rest/define.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { patch } from "../rest/write.ts";

/** The caller may change its own email and password here, knowing the present password. */
const account = {
  ...users,
  fields: { ...users.fields, session_id: { schema: z.string() } },
  patch: {
    shape: () => ({ name, email, password, current_password: z.string().max(1024) }),
    async before(context: Context, input: Input) {
      await checkPassword(context, input);
      await hashInput(context, input);
    },
    async change({ sql, viewer }: Context, { current_password: _known, ...columns }: Input) {
      await sql`select set_config('atelier.keep_session', ${viewer.sessionId ?? ""}, true)`;
      return columns;
    },
  },
};

export function accountRoutes() {
  const routes = new Hono<Env>();
  routes.get("/", async (c) => {
    refuseQuery(new URL(c.req.url).searchParams);
    return c.json(await read(c));
  });
  routes.patch("/", async (c) => {
    const context = c.get("context");
    if (context.viewer.id === null) throw new Problem("token-required");
    const body = await readJson(c.req.raw, ["application/json", "application/merge-patch+json"]);
    await patch(account, { ids: [context.viewer.id], isBulk: false }, body, context);
    return c.json(await read(c));
  });
  return routes;
}

async function read(c: HonoContext<Env>) {
  const { sql, viewer } = c.get("context");
  if (viewer.id === null) throw new Problem("token-required");
  const [row] = await sql`select id, name, email, admin, created_at, updated_at from users where id = ${viewer.id}`;
  const { id, name, email, admin, created_at, updated_at } = row as Record<string, unknown>;
  return { id, name, email, admin, session_id: viewer.sessionId, created_at, updated_at };
}

/** @throws Problem "invalid" when email or password are to change and the present password is missing or wrong */
async function checkPassword({ sql, viewer }: Context, input: Input): Promise<void> {
  const { email: newEmail, password: newPassword, current_password: known } = input;
  if (newEmail === undefined && newPassword === undefined) return;
  const [user] = await sql<{ password_hash: string }[]>`select password_hash from users where id = ${viewer.id}`;
  const matches = typeof known === "string" && (await verifyPassword(user?.password_hash ?? null, known));
  if (!matches) throw invalid("/current_password", "must be the present password");
}

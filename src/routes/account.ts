/** The caller's own account. */
import { Hono } from "hono";
import { z } from "zod";
import { networkOf } from "../auth/address.ts";
import { verifyPassword } from "../auth/password.ts";
import { guessesAtAccount, guessesFrom, throttled } from "../auth/throttle.ts";
import { invalid, isProblem, Problem } from "../problems.ts";
import { createdAt, id, name, updatedAt } from "../resources/common.ts";
import { email, hashInput, password, users } from "../resources/users.ts";
import { toResponse } from "../rest/answer.ts";
import { readJson, refuseBody } from "../rest/body.ts";
import { type Context, defineResource, type Input } from "../rest/define.ts";
import { matchesNone } from "../rest/etag.ts";
import { type Env, refuseQuery } from "../rest/http.ts";
import { refuseKey } from "../rest/idempotency.ts";
import { detail } from "../rest/read.ts";
import { patch, transaction } from "../rest/write.ts";
import { replaceSecret } from "../webhooks/secrets.ts";

/** The caller's own row of the users, all of it: to whoever asks here, it is theirs. */
export const account = defineResource({
  ...users,
  about: "The caller.",
  fields: {
    id,
    name: { schema: name },
    email: { schema: z.email() },
    admin: { schema: z.boolean() },
    session_id: { schema: z.string(), select: ({ sql, viewer }) => sql`${viewer.sessionId}::text` },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  patch: {
    shape: () => ({ name, email, password, current_password: z.string().max(1024) }),
    throws: ["email-taken"],
    around<T>(context: Context, input: Input, work: () => Promise<T>): Promise<T> {
      if (!isGuarded(input)) return work();
      const counters = [guessesAtAccount(`user ${context.viewer.id}`), guessesFrom(networkOf(context.client.ip))];
      return throttled(
        context,
        counters,
        work,
        (error) => isProblem(error, "invalid") || isProblem(error, "email-taken"),
      );
    },
    async before(context: Context, input: Input) {
      await checkPassword(context, input);
      await hashInput(context, input);
    },
    async change({ sql, viewer }, { current_password: _known, ...columns }) {
      await sql`select set_config('atelier.keep_session', ${viewer.sessionId ?? ""}, true)`;
      return columns;
    },
  },
});

export function accountRoutes() {
  const routes = new Hono<Env>();
  routes.get("/", async (c) => {
    const context = c.get("context");
    if (context.viewer.id === null) throw new Problem("token-required");
    refuseQuery(c.req.url);
    const { json, etag } = await detail(account, String(context.viewer.id), context);
    if (matchesNone(c.req.header("if-none-match"), etag)) return c.body(null, 304, { ETag: etag });
    return toResponse({ status: 200, headers: { ETag: etag }, body: json });
  });
  routes.patch("/", async (c) => {
    const context = c.get("context");
    if (context.viewer.id === null) throw new Problem("token-required");
    const body = await readJson(c.req.raw, ["application/json", "application/merge-patch+json"]);
    refuseQuery(c.req.url);
    const target = { ids: [context.viewer.id], isBulk: false };
    return toResponse(await patch(account, target, body, context, c.req.header("if-match")));
  });
  routes.post("/webhook-secret", async (c) => {
    const context = c.get("context");
    const { id } = context.viewer;
    if (id === null) throw new Problem("token-required");
    refuseKey(c);
    await refuseBody(c.req.raw);
    refuseQuery(c.req.url);
    const secret = await transaction(context, ({ sql }) => replaceSecret(sql, context.secrets, id));
    return c.json({ secret }, 201, { "Cache-Control": "no-store" });
  });
  return routes;
}

function isGuarded({ email, password }: Input): boolean {
  return email !== undefined || password !== undefined;
}

/** @throws Problem "invalid" when email or password are to change and the present password is missing or wrong */
async function checkPassword({ sql, viewer }: Context, input: Input): Promise<void> {
  if (!isGuarded(input)) return;
  const { current_password: known } = input;
  const [user] = await sql<{ password_hash: string }[]>`select password_hash from users where id = ${viewer.id}`;
  const matches = typeof known === "string" && (await verifyPassword(user?.password_hash ?? null, known));
  if (!matches) throw invalid("/current_password", "must be the present password");
}

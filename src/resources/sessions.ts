/** Log-ins. One's own only; the token is answered once, by the POST that makes it. */
import { z } from "zod";
import { networkOf } from "../auth/address.ts";
import { verifyPassword } from "../auth/password.ts";
import { openSession } from "../auth/session.ts";
import { guessesAtAccount, guessesFrom, throttled } from "../auth/throttle.ts";
import { isProblem, Problem } from "../problems.ts";
import { defineResource, isOwnerOrAdmin } from "../rest/define.ts";
import { commonSorts, createdAt, reference, updatedAt } from "./common.ts";

const statuses = ["active", "revoked"] as const;

/** Written the same way here and in the counters, or one account would have many of them. */
const canonicalEmail = (text: string) => text.trim().toLowerCase();

export const sessions = defineResource({
  name: "sessions",
  singular: "session",
  about: "Log-ins. One's own only, admins see all. POST logs in and is the one answer that shows the token.",
  id: "text",
  owner: "t.user_id",
  readers: "users",
  isPersonal: true,
  fields: {
    id: { schema: z.string() },
    ip: { schema: z.string() },
    user_id: { schema: reference },
    user_agent: { schema: z.string() },
    status: { schema: z.enum(statuses) },
    expires_at: { schema: z.iso.datetime() },
    current: {
      schema: z.boolean(),
      select: ({ sql, viewer }) => sql`t.id is not distinct from ${viewer.sessionId}`,
    },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  filters: {
    id: { kind: "text", column: "id" },
    user_id: { kind: "id", column: "user_id" },
    status: { kind: "enum", column: "status", field: "status", values: statuses },
  },
  sorts: { createdAt: commonSorts.createdAt, updatedAt: commonSorts.updatedAt },
  visible: ({ sql, viewer }) => (viewer.admin ? sql`true` : sql`t.user_id = ${viewer.id}`),
  mayWrite: isOwnerOrAdmin,
  create: {
    by: "guests",
    // Any string may be tried: what is no valid email or password simply fails as a wrong one does.
    shape: () => ({ email: z.string().max(254).transform(canonicalEmail), password: z.string().max(1024) }),
    required: ["email", "password"],
    throws: ["login-failed", "too-many-requests"],
    extra: { token: z.string() },
    isSecret: true,
    around(context, { email }, work) {
      const counters = [guessesAtAccount(`log-in ${email}`), guessesFrom(networkOf(context.client.ip))];
      return throttled(context, counters, work, (error) => isProblem(error, "login-failed"));
    },
    async before({ sql }, input) {
      const [user] = await sql<{ id: number; password_hash: string }[]>`
        select id, password_hash from users where lower(email) = ${input.email as string}
      `;
      const matches = await verifyPassword(user?.password_hash ?? null, input.password as string);
      if (!user || !matches) throw new Problem("login-failed");
      Object.assign(input, { user_id: user.id, password_hash: user.password_hash });
    },
    async insert({ sql, client }, [input = {}]) {
      const { user_id: userId, password_hash } = input as { user_id: number; password_hash: string };
      // The password may have been changed, and the user shut out, while it was verified: that revoked all sessions, and
      // none must be opened after.
      const [user] = await sql`
        select from users where id = ${userId} and password_hash = ${password_hash} and not disabled for share
      `;
      if (!user) throw new Problem("login-failed");
      const { id, token } = await openSession(sql, { userId, ip: client.ip, userAgent: client.userAgent });
      return [{ id, extra: { token }, viewer: { id: userId, admin: false, sessionId: id } }];
    },
  },
  patch: {
    shape: () => ({ status: z.enum(statuses) }),
    throws: ["session-revoked"],
    async change({ sql }, { status }, [row]) {
      if (status === undefined || !row) return {};
      if (status === "revoked") return row.status === "revoked" ? {} : { status, revoked_at: sql`now()` };
      if (row.status === "revoked") throw new Problem("session-revoked");
      const isExpired = Date.parse(row.expires_at as string) <= Date.now();
      if (isExpired) throw new Problem("session-revoked", { detail: "The session has expired; log in again" });
      return { expires_at: sql`now() + interval '30 days'` };
    },
  },
  remove: {},
});

/** Log-ins. One's own only; the token is answered once, by the POST that makes it. */
import { z } from "zod";
import { verifyPassword } from "../auth/password.ts";
import { openSession } from "../auth/session.ts";
import { Problem } from "../problems.ts";
import { defineResource, isOwnerOrAdmin } from "../rest/define.ts";
import { commonSorts, createdAt, reference, updatedAt } from "./common.ts";

export const sessions = defineResource({
  name: "sessions",
  singular: "session",
  about: "Log-ins. One's own only, admins see all. POST logs in and is the one answer that shows the token.",
  id: "text",
  owner: "t.user_id",
  readers: "users",
  fields: {
    id: { schema: z.string() },
    ip: { schema: z.string() },
    user_id: { schema: reference },
    user_agent: { schema: z.string() },
    status: { schema: z.enum(["active", "revoked"]) },
    expires_at: { schema: z.iso.datetime() },
    current: {
      schema: z.boolean(),
      select: ({ sql, viewer }) => sql`t.id is not distinct from ${viewer.sessionId}`,
    },
    created_at: createdAt,
    updated_at: updatedAt,
  },
  filters: { id: { kind: "text", column: "id" }, user_id: { kind: "id", column: "user_id" } },
  sorts: { createdAt: commonSorts.createdAt, updatedAt: commonSorts.updatedAt },
  visible: ({ sql, viewer }) => (viewer.admin ? sql`true` : sql`t.user_id = ${viewer.id}`),
  mayWrite: isOwnerOrAdmin,
  create: {
    by: "guests",
    // Any string may be tried: what is no valid email or password simply fails as a wrong one does.
    shape: () => ({ email: z.string().max(254), password: z.string().max(1024) }),
    required: ["email", "password"],
    throws: ["login-failed", "too-many-requests"],
    extra: { token: z.string() },
    isSecret: true,
    async before({ sql }, input) {
      if (input.email === undefined || input.password === undefined) return;
      const [user] = await sql<{ id: number; password_hash: string; disabled: boolean }[]>`
        select id, password_hash, disabled from users where lower(email) = lower(${(input.email as string).trim()})
      `;
      const matches = await verifyPassword(user?.password_hash ?? null, input.password as string);
      if (!user || !matches || user.disabled) throw new Problem("login-failed");
      input.user_id = user.id;
    },
    async insert({ sql, client }, [input]) {
      const userId = input?.user_id as number;
      const { id, token } = await openSession(sql, { userId, ip: client.ip, userAgent: client.userAgent });
      return [{ id, extra: { token }, viewer: { id: userId, admin: false, sessionId: id } }];
    },
  },
  patch: {
    shape: () => ({ status: z.enum(["active", "revoked"]) }),
    throws: ["session-revoked"],
    async change({ sql }, { status }, [row]) {
      if (status === undefined || !row) return {};
      if (status === "revoked") return row.status === "revoked" ? {} : { status, revoked_at: sql`now()` };
      if (row.status === "revoked") throw new Problem("session-revoked");
      return { expires_at: sql`now() + interval '30 days'` };
    },
  },
  remove: {},
});

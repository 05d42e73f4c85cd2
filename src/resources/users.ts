/** People. Their names are public, the rest is theirs and the admins'. */
import { z } from "zod";
import { networkOf } from "../auth/address.ts";
import { hashPassword } from "../auth/password.ts";
import { guessesFrom, throttled } from "../auth/throttle.ts";
import { guest } from "../auth/viewer.ts";
import { isProblem, Problem } from "../problems.ts";
import { type Context, defineResource, type Input, isOwnerOrAdmin } from "../rest/define.ts";
import { commonSorts, createdAt, id, name, updatedAt } from "./common.ts";

/** zod's own rule, within RFC 5321's lengths: 64 before the @, 63 a label. Longer ones nobody could be written to. */
const address = new RegExp(`^(?=[^@]{1,64}@)(?!.*@.*[^.]{64})${z.regexes.email.source.slice(1)}`);
export const email = z
  .string()
  .trim()
  .max(254)
  .meta({ format: "email", pattern: address.source })
  .pipe(z.email({ pattern: address }));
export const password = z.string().min(8).max(128);

/** Hashing is slow: it happens before the transaction. */
export async function hashInput(_context: Context, input: Input): Promise<void> {
  if (typeof input.password === "string") {
    input.password_hash = await hashPassword(input.password);
    delete input.password;
  }
}

export const users = defineResource({
  name: "users",
  singular: "user",
  about: "People. Everyone sees their names; the rest is theirs and the admins'.",
  id: "integer",
  owner: "t.id",
  fields: {
    id,
    name: { schema: name },
    email: { schema: z.email(), see: "owner" },
    admin: { schema: z.boolean(), see: "owner" },
    disabled: { schema: z.boolean(), see: "owner" },
    created_at: createdAt,
    updated_at: { ...updatedAt, see: "owner" },
  },
  filters: { id: { kind: "id", column: "id" }, name: { kind: "text", column: "name" } },
  sorts: { ...commonSorts, updatedAt: { ...commonSorts.updatedAt, see: "admin" } },
  lists: { counted: ["name"], isOwned: false },
  isSearchable: true,
  visible: ({ sql }) => sql`true`,
  mayWrite: isOwnerOrAdmin,
  create: {
    by: "guests",
    shape: () => ({ email, password, name, admin: z.boolean(), disabled: z.boolean() }),
    required: ["email", "password"],
    adminFields: ["admin", "disabled"],
    throws: ["forbidden", "email-taken"],
    judge({ isSignupOpen, viewer }) {
      if (isSignupOpen || viewer.admin) return;
      throw new Problem("forbidden", { detail: "Sign-up is closed: ask an admin" });
    },
    // Whether an email is taken is a question, too: asked often enough, it lists who has an account.
    around: (context, _input, work) =>
      throttled(context, [guessesFrom(networkOf(context.client.ip))], work, (error) => isProblem(error, "email-taken")),
    before: hashInput,
    async insert({ sql, viewer }, [input]) {
      const address = input?.email as string;
      const row = { name: address.split("@")[0]?.slice(0, 120), admin: false, disabled: false, ...input };
      const [user] = await sql<{ id: number }[]>`insert into users ${sql(row as Input)} returning id`;
      const created = user?.id as number;
      return [{ id: created, viewer: viewer.admin ? viewer : { ...guest, id: created } }];
    },
  },
  patch: {
    shape: () => ({ name, email, password, admin: z.boolean(), disabled: z.boolean() }),
    adminFields: ["email", "password", "admin", "disabled"],
    throws: ["email-taken", "last-admin"],
    before: hashInput,
    async change({ sql, viewer }, input, rows) {
      // An admin who sets the own password stays logged in.
      if (rows.some((row) => row.id === viewer.id))
        await sql`select set_config('atelier.keep_session', ${viewer.sessionId ?? ""}, true)`;
      return input;
    },
  },
  remove: { throws: ["last-admin"] },
});

/**
 * `bun run admin`: what operators do on the database's side, without the API. `create EMAIL` makes an admin,
 * `reset-password EMAIL` gives a user a new password, `rotate-key` seals every secret anew under another SECRET_KEY.
 */
import { randomBytes } from "node:crypto";
import { z } from "zod";
import { rotateKey } from "./admin/rotate-key.ts";
import { withDatabase } from "./admin/with-database.ts";
import { hashPassword } from "./auth/password.ts";
import { BootError, main } from "./boot.ts";
import type { Sql } from "./db/client.ts";

const usage = "Usage: bun run admin create EMAIL | reset-password EMAIL | rotate-key";

await main(async () => {
  const [command = "", ...rest] = process.argv.slice(2);
  const run = { create, "reset-password": resetPassword }[command];
  if (run && rest.length === 1) {
    const email = z.email().max(254).safeParse(rest[0]?.trim());
    if (!email.success) throw new BootError(`"${rest[0]}" is not an email address`);
    await withDatabase((sql) => run(sql, email.data));
  } else if (command === "rotate-key" && rest.length === 0) {
    await withDatabase(async (sql, config) => console.log(await rotateKey(sql, config)));
  } else {
    throw new BootError(usage);
  }
});

async function create(sql: Sql, email: string): Promise<void> {
  const password = newPassword();
  const name = (email.split("@")[0] ?? email).slice(0, 120);
  const [made] = await sql`
    insert into users (name, email, password_hash, admin)
    values (${name}, ${email}, ${await hashPassword(password)}, true)
    on conflict do nothing
    returning id
  `;
  if (!made) throw new BootError(`There is a user ${email} already; reset-password gives them a new password`);
  console.log(`Admin ${email} has the password ${password} (shown only this once)`);
}

/** The table's trigger revokes the user's sessions. A disabled user stays disabled. */
async function resetPassword(sql: Sql, email: string): Promise<void> {
  const password = newPassword();
  const [user] = await sql<{ email: string; disabled: boolean }[]>`
    update users set password_hash = ${await hashPassword(password)}
    where lower(email) = lower(${email})
    returning email, disabled
  `;
  if (!user) throw new BootError(`There is no user ${email}`);
  const hint = user.disabled ? "; the user is disabled and still cannot log in" : "";
  console.log(`${user.email} has the password ${password} (shown only this once)${hint}`);
}

function newPassword(): string {
  return randomBytes(12).toString("base64url");
}

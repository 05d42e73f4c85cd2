/** The secrets that a user's webhooks are signed with, in the form of the Standard Webhooks specification. */
import { randomBytes } from "node:crypto";
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";

/** Long enough for every receiver to be told of the new one. */
const overlap = "24 hours";

/**
 * Makes the user's new secret; the one before signs beside it for a day, so that receivers can be changed one by one.
 *
 * @param sql a transaction
 * @returns `whsec_` and 256 bits in base64: to be shown once
 */
export async function replaceSecret(sql: Sql, secrets: Secrets, userId: number): Promise<string> {
  const secret = newSecret();
  await sql`select from users where id = ${userId} for no key update`;
  await sql`
    update webhook_secrets
    set expires_at = now() + ${overlap}::interval
    where user_id = ${userId} and expires_at is null
  `;
  await sql`insert into webhook_secrets (user_id, secret_sealed) values (${userId}, ${secrets.seal(secret)})`;
  return secret;
}

/** Those to sign with, the newest first. A user who has never asked for one gets one that nobody has seen. */
export async function listSecrets(sql: Sql, secrets: Secrets, userId: number): Promise<string[]> {
  const find = () => sql<{ secret_sealed: string }[]>`
    select secret_sealed from webhook_secrets
    where user_id = ${userId} and (expires_at is null or expires_at > now())
    order by id desc
  `;
  let rows = await find();
  if (rows.length === 0) {
    await sql`
      insert into webhook_secrets (user_id, secret_sealed) values (${userId}, ${secrets.seal(newSecret())})
      on conflict (user_id) where expires_at is null do nothing
    `;
    rows = await find();
  }
  return rows.map((row) => secrets.open(row.secret_sealed));
}

function newSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

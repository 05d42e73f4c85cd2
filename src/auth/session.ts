/** Sessions: the token is shown once and kept only as its SHA-256; the id is public. */
import { createHash, randomBytes } from "node:crypto";
import type { Sql } from "../db/client.ts";

/** SHA-256 of a token, as the database keeps it. Tokens have 256 random bits, so no salt is needed. */
export function hashToken(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Opens a session. The token is in no table: the caller must show it now or never. */
export async function openSession(
  sql: Sql,
  session: { userId: number; ip: string; userAgent: string },
): Promise<{ id: string; token: string }> {
  const id = randomBytes(16).toString("base64url");
  const token = randomBytes(32).toString("base64url");
  await sql`
    insert into sessions (id, token_hash, user_id, ip, user_agent)
    values (${id}, ${hashToken(token)}, ${session.userId}, ${session.ip}, ${session.userAgent.slice(0, 400)})
  `;
  return { id, token };
}

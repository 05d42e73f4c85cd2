/** Who asks. A guest is a viewer too. */
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { hashToken } from "./session.ts";

export interface Viewer {
  /** Null for a guest. */
  id: number | null;
  admin: boolean;
  sessionId: string | null;
}

export const guest: Viewer = { id: null, admin: false, sessionId: null };

/**
 * The token of a request: `Authorization: Bearer <token>` or the plain header `Token`. Null when neither is there.
 * @throws Problem "token-invalid" for another kind of Authorization: never a silent guest
 */
export function readToken(headers: Headers): string | null {
  const authorization = headers.get("authorization");
  if (authorization === null) return headers.get("token");
  const match = /^Bearer +(\S+) *$/i.exec(authorization);
  if (!match?.[1]) throw new Problem("token-invalid", { headers: { "WWW-Authenticate": "Bearer" } });
  return match[1];
}

interface SessionRow {
  id: number;
  admin: boolean;
  session_id: string;
  is_stale: boolean;
}

/** The users of sessions that still stand. As text, since every request asks: fragments are composed anew each time. */
const sessionsBy = (condition: string) => `
  select u.id, u.admin, s.id as session_id, s.expires_at < now() + interval '30 days' - interval '1 hour' as is_stale
  from sessions s
  join users u on u.id = s.user_id
  where ${condition}
    and s.status = 'active'
    and s.expires_at > now()
    and not u.disabled
`;
const sessionsByToken = sessionsBy("s.token_hash = $1");
const sessionsByIds = sessionsBy("s.id = any ($1)");

/** Whom sessions stand for now, without those that have ended. Does not extend them: watching is no use. */
export async function findSessions(sql: Sql, sessionIds: string[]): Promise<Map<string, Viewer>> {
  const rows = await sql.unsafe<SessionRow[]>(sessionsByIds, [sessionIds], { prepare: true });
  return new Map(rows.map(({ id, admin, session_id }) => [session_id, { id, admin, sessionId: session_id }]));
}

/**
 * The viewer that a token stands for. Using a session extends it, written at most once an hour.
 * @param token null is a guest
 * @throws Problem "token-invalid" when it is unknown, expired or revoked, or its user may not log in
 */
export async function findViewer(sql: Sql, token: string | null): Promise<Viewer> {
  if (token === null) return guest;
  const [row] = await sql.unsafe<SessionRow[]>(sessionsByToken, [hashToken(token)], { prepare: true });
  if (!row) throw new Problem("token-invalid", { headers: { "WWW-Authenticate": 'Bearer error="invalid_token"' } });
  if (row.is_stale) {
    // Asked again, since the requests of a page come at once and one of them is enough.
    await sql`
      update sessions set expires_at = now() + interval '30 days'
      where id = ${row.session_id}
        and status = 'active'
        and expires_at < now() + interval '30 days' - interval '1 hour'
    `;
  }
  return { id: row.id, admin: row.admin, sessionId: row.session_id };
}

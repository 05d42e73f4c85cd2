/**
 * Idempotency-Key: the same POST sent twice acts once, and is answered twice. The key's row is written in the
 * transaction of the effect, so that a crash leaves both or neither.
 */
import type { Context as HonoContext } from "hono";
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";
import { type Answer, toResponse } from "./answer.ts";
import type { Env } from "./http.ts";

/** How long the same request waits for the first, here and in the database, before it is told to come back. */
export const patience = { ms: 8_000 };
/** As the contract has it; the sweep uses the same. */
export const keptHours = 24;

/** What a transaction must do so that its effect happens once. `claim` comes first in it, `keep` last. */
export interface Once {
  /** @throws Replay when another request got there first; Problem "idempotency-key-reused", "in-progress" */
  claim(tx: Sql): Promise<void>;
  keep(tx: Sql, answer: Answer): Promise<void>;
}

/** For requests without a key. */
export const unkept: Once = { claim: async () => {}, keep: async () => {} };

/** Ends the transaction of a request that turned out to have been answered already. */
class Replay extends Error {
  constructor(readonly answer: Answer) {
    super("answered already");
  }
}

/** @throws Problem "idempotency-key-refused" when there is one: the answer shows what must never be stored */
export function refuseKey(c: HonoContext<Env>): void {
  if (readKey(c) !== null) {
    throw new Problem("idempotency-key-refused", { detail: "This answer shows a secret once; it is not kept" });
  }
}

/**
 * Answers a POST by `work`, or by what `work` answered to the same caller, method, path and key before.
 *
 * @param content what was sent: the same key with another content is refused
 * @param work must run `claim` and `keep` in the transaction of its effect; what it throws is not kept
 * @throws Problem "idempotency-key-invalid", "idempotency-key-reused"; "in-progress" when the first takes too long
 */
export async function answerOnce(
  c: HonoContext<Env>,
  content: string,
  work: (once: Once) => Promise<Answer>,
): Promise<Response> {
  const key = readKey(c);
  if (key === null) return toResponse(await work(unkept));
  const { sql, secrets, viewer, client } = c.get("context");
  const caller = viewer.id === null ? `guest ${client.ip}` : `user ${viewer.id}`;
  const scope = secrets.digest("idempotency", [caller, c.req.method, c.req.path, key].join("\n"));
  const fingerprint = secrets.digest("idempotency", content);
  // Equal requests of this process wait here, where they hold no connection of the pool.
  return inTurn(sql, scope.toString("base64"), async () => {
    const stored = await findAnswer(sql, scope, fingerprint);
    if (stored) return replay(stored);
    try {
      return toResponse(await work(createOnce(scope, fingerprint)));
    } catch (error) {
      if (error instanceof Replay) return replay(error.answer);
      throw error;
    }
  });
}

/** The same text for the same JSON, however its keys are ordered. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_name, part) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

function readKey(c: HonoContext<Env>): string | null {
  const key = c.req.header("idempotency-key");
  if (key === undefined) return null;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new Problem("idempotency-key-invalid", {
      detail: "An Idempotency-Key has 1 to 255 visible ASCII characters",
    });
  }
  return key;
}

function replay(answer: Answer): Response {
  return toResponse({ ...answer, headers: { ...answer.headers, "Idempotency-Replayed": "true" } });
}

function createOnce(scope: Buffer, fingerprint: Buffer): Once {
  return {
    async claim(tx) {
      // The insert waits for another process's transaction with the same key; a waiting one must not pile up connections.
      const claimed = tx<{ scope: Buffer }[]>`
        insert into idempotency_keys (scope, fingerprint)
        values (${scope}, ${fingerprint})
        on conflict (scope) do update
        set fingerprint = excluded.fingerprint, status = null, headers = null, body = null, created_at = now()
        where idempotency_keys.created_at < now() - make_interval(hours => ${keptHours})
        returning scope
      `;
      const [, rows] = await Promise.all([
        tx`select set_config('lock_timeout', ${`${patience.ms}ms`}, true)`,
        claimed,
        tx`select set_config('lock_timeout', '0', true)`,
      ]).catch((error) => {
        throw error?.code === "55P03" ? inProgress(error) : error;
      });
      if (rows.length > 0) return;
      const stored = await findAnswer(tx, scope, fingerprint);
      throw stored ? new Replay(stored) : inProgress();
    },
    async keep(tx, { status, headers, body }) {
      await tx`
        update idempotency_keys
        set status = ${status}, headers = ${tx.json(headers)}, body = ${body}
        where scope = ${scope}
      `;
    },
  };
}

async function findAnswer(sql: Sql, scope: Buffer, fingerprint: Buffer): Promise<Answer | null> {
  const [row] = await sql<(Answer & { is_same: boolean })[]>`
    select status, headers, body, fingerprint = ${fingerprint} as is_same
    from idempotency_keys
    where scope = ${scope}
      and created_at >= now() - make_interval(hours => ${keptHours})
  `;
  if (!row) return null;
  if (!row.is_same) throw new Problem("idempotency-key-reused", { detail: "This key came with another body before" });
  return { status: row.status, headers: row.headers, body: row.body };
}

function inProgress(cause?: unknown): Problem {
  return new Problem("in-progress", { headers: { "Retry-After": "2" }, cause });
}

/** The last one waiting for each name, by pool: two apps in one process meet in the database alone, as processes do. */
const lines = new WeakMap<Sql, Map<string, Promise<void>>>();

/** Runs `work` of one name one after the other. @throws Problem "in-progress" when the turn does not come in time */
async function inTurn<T>(sql: Sql, name: string, work: () => Promise<T>): Promise<T> {
  const turns = lines.get(sql) ?? new Map<string, Promise<void>>();
  lines.set(sql, turns);
  const before = turns.get(name) ?? Promise.resolve();
  const mine = Promise.withResolvers<void>();
  const tail = before.then(() => mine.promise);
  turns.set(name, tail);
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(inProgress()), patience.ms);
  try {
    await Promise.race([before, late.promise]);
    clearTimeout(timer);
    return await work();
  } finally {
    clearTimeout(timer);
    mine.resolve();
    if (turns.get(name) === tail) turns.delete(name);
  }
}

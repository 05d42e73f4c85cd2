/** How much a user may store: `USER_QUOTA_BYTES` over all their files, and over uploads that are still on their way. */
import type { Sql } from "../db/client.ts";
import { Problem } from "../problems.ts";

/** What a user's files take, and what their unfinished uploads will. */
export async function readUsage(sql: Sql, userId: number): Promise<{ stored: number; pending: number }> {
  const [row] = await sql<{ stored: number; pending: number }[]>`
    select
      (select coalesce(sum(size), 0)::bigint from files where user_id = ${userId}) as stored,
      (
        select coalesce(sum(size), 0)::bigint
        from uploads
        where user_id = ${userId} and file_key is null and expires_at > now()
      ) as pending
  `;
  return { stored: row?.stored ?? 0, pending: row?.pending ?? 0 };
}

/** Bytes that a user may still store. @param quotaBytes 0 is no limit */
export async function readAllowance(sql: Sql, userId: number, quotaBytes: number): Promise<number> {
  if (quotaBytes === 0) return Number.POSITIVE_INFINITY;
  const { stored, pending } = await readUsage(sql, userId);
  return Math.max(0, quotaBytes - stored - pending);
}

/**
 * Judges what a transaction has just written. It locks the user's row, so that of uploads at the same time each sees
 * the others.
 *
 * @throws Problem "quota-exceeded"
 */
export async function judgeQuota(tx: Sql, userId: number, quotaBytes: number): Promise<void> {
  if (quotaBytes === 0) return;
  await tx`select from users where id = ${userId} for no key update`;
  const { stored, pending } = await readUsage(tx, userId);
  if (stored + pending > quotaBytes) throw quotaExceeded(quotaBytes);
}

export function quotaExceeded(quotaBytes: number): Problem {
  return new Problem("quota-exceeded", {
    detail: `Your files may take ${quotaBytes} bytes in all; delete some first.`,
  });
}

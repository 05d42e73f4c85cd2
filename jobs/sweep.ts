/** `sweep`: once a day, deletes records whose time is over. May run twice. */
import { keptHours } from "../src/rest/idempotency.ts";
import type { JobDeps } from "./handler.ts";

/** Rows of one statement: a delete of millions would hold its locks, and its announcement back, for minutes. */
const batch = 5_000;

export function createSweep({ sql, log }: Pick<JobDeps, "sql" | "log">) {
  return async (): Promise<void> => {
    const swept = {
      // A revoked session stays for its user to see; an expired one has not been used for 30 days already.
      sessions: await drain(
        () => sql`
          delete from sessions
          where id in (
            select id from sessions where status = 'revoked' and revoked_at < now() - interval '30 days'
            union
            select id from sessions where status = 'active' and expires_at < now()
            limit ${batch}
          )
          returning 1
        `,
      ),
      answers: await drain(
        () => sql`
          delete from idempotency_keys
          where scope in (
            select scope from idempotency_keys
            where created_at < now() - make_interval(hours => ${keptHours})
            limit ${batch}
          )
          returning 1
        `,
      ),
      deliveries: await drain(
        () => sql`
          delete from deliveries
          where id in (select id from deliveries where settled_at < now() - interval '30 days' limit ${batch})
          returning 1
        `,
      ),
      webhookSecrets: await drain(
        () => sql`
          delete from webhook_secrets
          where id in (select id from webhook_secrets where expires_at < now() limit ${batch})
          returning 1
        `,
      ),
      // What the queue has given up stays a week for its operator to look at.
      jobs: await drain(
        () => sql`
          delete from graphile_worker._private_jobs
          where id in (
            select id from graphile_worker._private_jobs
            where attempts >= max_attempts and locked_at is null and updated_at < now() - interval '7 days'
            limit ${batch}
          )
          returning 1
        `,
      ),
      attempts: await drain(
        () => sql`
          delete from attempts
          where id in (select id from attempts where ended_at < now() - interval '30 days' limit ${batch})
          returning 1
        `,
      ),
      // What a user had days ago weighs nothing any more.
      queues: await drain(
        () => sql`
          delete from queues
          where (user_id, need_id) in (
            select user_id, need_id from queues
            where waiting = 0 and served_at < now() - interval '2 days'
            limit ${batch}
            for update skip locked
          )
          returning 1
        `,
      ),
      throttles: await drain(
        () => sql`
          delete from throttles
          where key in (select key from throttles where used_at < now() - interval '1 hour' limit ${batch})
          returning 1
        `,
      ),
    };
    log.info(swept, "swept");
  };
}

/** Runs a delete of at most one batch until there is less to delete. */
async function drain(remove: () => PromiseLike<readonly unknown[]>): Promise<number> {
  for (let total = 0; ; ) {
    const { length } = await remove();
    total += length;
    if (length < batch) return total;
  }
}

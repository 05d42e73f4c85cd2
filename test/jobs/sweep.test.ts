import { expect, test } from "bun:test";
import { createSweep } from "../../jobs/sweep.ts";
import { openSession } from "../../src/auth/session.ts";
import { startApp } from "../helpers/app.ts";

const app = await startApp();
const { sql } = app;
const user = await app.signUp();
const sweep = createSweep({ sql, log: app.log });

test.each([
  { what: "in use", change: "expires_at = now() + interval '1 day'", isKept: true },
  { what: "expired", change: "expires_at = now() - interval '1 minute'", isKept: false },
  { what: "revoked 29 days ago", change: "status = 'revoked', revoked_at = now() - interval '29 days'", isKept: true },
  { what: "revoked 31 days ago", change: "status = 'revoked', revoked_at = now() - interval '31 days'", isKept: false },
  {
    what: "revoked yesterday and expired since",
    change: "status = 'revoked', revoked_at = now() - interval '1 day', expires_at = now() - interval '1 hour'",
    isKept: true,
  },
])("a session $what is kept: $isKept", async ({ change, isKept }) => {
  const { id } = await openSession(sql, { userId: user.id, ip: "192.0.2.1", userAgent: "tests" });
  await sql`update sessions set ${sql.unsafe(change)} where id = ${id}`;
  await sweep();
  await sweep();
  expect(await sql`select from sessions where id = ${id}`).toHaveLength(isKept ? 1 : 0);
});

test("answers go after 24 hours, counters of guesses after one", async () => {
  await sql`
    insert into idempotency_keys (scope, fingerprint, created_at)
    values ('old', '', now() - interval '25 hours'), ('young', '', now() - interval '23 hours')
  `;
  await sql`
    insert into throttles (key, used_at) values ('old', now() - interval '2 hours'), ('young', now())
  `;
  await sweep();
  expect(await sql`select scope from idempotency_keys`).toEqual([{ scope: Buffer.from("young") }] as never);
  expect(await sql`select key from throttles`).toEqual([{ key: "young" }] as never);
});

test("more than one batch goes in one run", async () => {
  await sql`
    insert into throttles (key, used_at)
    select 'many ' || i, now() - interval '2 hours' from generate_series(1, 12000) i
  `;
  await sweep();
  expect(await sql`select key from throttles`).toHaveLength(1);
});

test("a job that the queue has given up goes after a week", async () => {
  await sql`select graphile_worker.add_job('delete-files', job_key := age) from unnest(array['8', '6']) age`;
  await sql`
    update graphile_worker._private_jobs
    set attempts = max_attempts, updated_at = now() - make_interval(days => key::int)
    where key in ('8', '6')
  `;
  await sweep();
  expect(await sql`select key from graphile_worker.jobs where key in ('8', '6')`).toEqual([{ key: "6" }] as never);
});

/** Webhooks from outside: a real receiver, the real job, the log. The worker's clock is moved by moving due_at. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import { createDeliverWebhook } from "../../jobs/deliver-webhook.ts";
import type { JobDeps } from "../../jobs/handler.ts";
import { startWorker } from "../../jobs/index.ts";
import { remindOverdue } from "../../src/webhooks/deliveries.ts";
import { createWebhookGuard } from "../../src/webhooks/guard.ts";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp({ webhookNetworks: ["127.0.0.1"] });
const { sql } = app;
const stranger = await app.signUp("stranger");
const admin = await app.admin();

interface Received {
  path: string;
  headers: Headers;
  body: string;
}
let received: Received[] = [];
let answer: (request: Request) => Response | Promise<Response> = () => new Response(null, { status: 204 });
const receiver = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    received.push({ path: new URL(request.url).pathname, headers: request.headers, body: await request.text() });
    return answer(request);
  },
});
afterAll(() => receiver.stop(true));
const hook = `http://127.0.0.1:${receiver.port}/hook`;
beforeEach(async () => {
  await sql`delete from graphile_worker._private_jobs`;
  received = [];
  answer = () => new Response(null, { status: 204 });
});

const deliver = createDeliverWebhook({
  sql,
  secrets: app.secrets,
  webhooks: createWebhookGuard(["127.0.0.1"]),
  log: app.log,
  stopping: new AbortController().signal,
} as Partial<JobDeps> as JobDeps);

/** Runs every job that is due, as a worker would, until none is left. */
async function work(): Promise<number> {
  for (let count = 0; ; ) {
    const jobs = await sql<{ id: string; payload: Json }[]>`
      with due as (
        delete from graphile_worker._private_jobs j
        using graphile_worker._private_tasks t
        where t.id = j.task_id and t.identifier = 'deliver-webhook' and j.run_at <= now()
        returning j.payload
      )
      select payload from due
    `;
    if (jobs.length === 0) return count;
    count += jobs.length;
    await Promise.all(jobs.map(({ payload }) => deliver(payload)));
  }
}
/** Time passes for what waits. */
async function wait(): Promise<void> {
  await sql`update deliveries set due_at = now() where status = 'pending'`;
  await sql`update graphile_worker._private_jobs set run_at = now()`;
}

async function order(fields: Json = {}, who?: { token: string }) {
  const owner = who ?? (await app.signUp());
  const task = await app.make("tasks", owner.token, { type: "infer", prompt: "x", webhook: hook, ...fields });
  const path = `/api/tasks/${task.id}/deliveries`;
  return {
    owner,
    id: task.id as number,
    path,
    log: async (token = owner.token) => (await app.call("GET", path, { token })).body.list as Json[],
    redeliver: (n: number, token: string | undefined = owner.token, headers = {}) =>
      app.call("POST", `${path}/${n}/redeliver`, { token, headers }),
    cancel: () => app.call("PATCH", `/api/tasks/${task.id}`, { token: owner.token, body: { status: "canceled" } }),
  };
}
const secretOf = async (token: string): Promise<string> =>
  (await app.call("POST", "/api/account/webhook-secret", { token })).body.secret;
/** By hand, after the specification: not by the library that signs. */
const signatureOf = (secret: string, { headers, body }: Received) => {
  const key = Buffer.from(secret.replace("whsec_", ""), "base64");
  const text = `${headers.get("webhook-id")}.${headers.get("webhook-timestamp")}.${body}`;
  return `v1,${createHmac("sha256", key).update(text).digest("base64")}`;
};
const signaturesOn = ({ headers }: Received) => headers.get("webhook-signature")?.split(" ");

test("the end of a task is told, signed with the owner's secret", async () => {
  const task = await order({ count: 2, public: true });
  const secret = await secretOf(task.owner.token);
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  await task.cancel();
  await work();
  expect(received).toHaveLength(1);
  const [message] = received as [Received];
  expect(message.headers.get("content-type")).toBe("application/json");
  expect(Math.abs(Number(message.headers.get("webhook-timestamp")) - Date.now() / 1000)).toBeLessThan(60);
  expect(signaturesOn(message)).toEqual([signatureOf(secret, message)]);
  const shown = (await app.call("GET", `/api/tasks/${task.id}`, { token: task.owner.token })).body;
  const body = JSON.parse(message.body);
  expect(body).toMatchObject({ type: "task.canceled", data: { id: task.id, status: "canceled" } });
  const { version: _version, ...data } = body.data;
  expect(shown).toMatchObject(data);
  expect(await task.log()).toMatchObject([
    {
      n: 1,
      id: message.headers.get("webhook-id"),
      event: "task.canceled",
      url: hook,
      status: "delivered",
      attempts: [{ status_code: 204, error: null }],
      next_attempt_at: null,
      payload: body,
    },
  ]);
});

test("only the statuses asked for, each once, and nothing for a task without a webhook", async () => {
  const chosen = await order({ webhook_events: ["ready", "running", "error"] });
  const silent = await order({ webhook: null });
  for (const { id } of [chosen, silent]) {
    for (const status of ["ready", "waiting", "running"])
      await sql`update tasks set status = ${status} where id = ${id}`;
    await sql`update tasks set progress = 50 where id = ${id}`;
    await sql`
      update tasks set status = 'error', error = '{"class": "stalled", "detail": "no"}', finished_at = now()
      where id = ${id}
    `;
  }
  await work();
  expect((await chosen.log()).map((entry) => entry.event)).toEqual(["task.ready", "task.running", "task.error"]);
  expect(await silent.log()).toEqual([]);
  const errors = received.map(({ body }) => JSON.parse(body).data.error);
  expect(errors).toContainEqual({ class: "stalled", detail: "no" });
});

test("a change that does not commit is not told", async () => {
  const task = await order({ webhook_events: ["ready"] });
  await sql
    .begin(async (tx) => {
      await tx`update tasks set status = 'ready' where id = ${task.id}`;
      throw new Error("rolled back");
    })
    .catch(() => {});
  await work();
  expect(await task.log()).toEqual([]);
});

describe("a receiver that fails", () => {
  test("is tried again with growing pauses, given up in the end, and never touches the task", async () => {
    const task = await order();
    await task.cancel();
    const before = await sql`select version from tasks where id = ${task.id}`;
    answer = () => new Response("no", { status: 500 });
    const pauses: number[] = [];
    for (let attempts = 1; attempts <= 11; attempts += 1) {
      await work();
      const [entry] = await task.log();
      expect(entry.attempts).toHaveLength(attempts);
      expect(entry.status).toBe(attempts < 11 ? "pending" : "failed");
      if (entry.next_attempt_at) {
        const [left] = await sql<{ s: number }[]>`
          select extract(epoch from due_at - now())::float as s from deliveries where task_id = ${task.id}
        `;
        pauses.push(left?.s ?? 0);
        const jobs =
          await sql`select from graphile_worker.jobs where key = 'deliver ' || (select id from deliveries where task_id = ${task.id})`;
        expect(jobs).toHaveLength(1);
      }
      await wait();
    }
    expect(pauses).toEqual(pauses.toSorted((a, b) => a - b));
    expect(pauses.at(-1)).toBeGreaterThan(12 * 3600);
    await work();
    expect(received).toHaveLength(11);
    expect(new Set(received.map(({ headers }) => headers.get("webhook-id"))).size).toBe(1);
    expect([...(await sql`select version from tasks where id = ${task.id}`)]).toEqual([...before]);
  });

  test.each([
    { what: "a redirect", respond: () => Response.redirect(`${hook}/else`, 307), status: "pending", code: 307 },
    { what: "gone", respond: () => new Response(null, { status: 410 }), status: "failed", code: 410 },
    { what: "too many requests", respond: () => new Response(null, { status: 429 }), status: "pending", code: 429 },
  ])("$what: $status after one attempt", async ({ respond, status, code }) => {
    const task = await order();
    await task.cancel();
    answer = respond;
    await work();
    expect(received.map(({ path }) => path)).toEqual(["/hook"]);
    expect(await task.log()).toMatchObject([{ status, attempts: [{ status_code: code, error: expect.any(String) }] }]);
  });

  test("nobody listening, and an address that may not be called: no word of ours but why", async () => {
    const closed = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
    const port = closed.port;
    await closed.stop(true);
    const task = await order({ webhook: `http://127.0.0.1:${port}/` });
    await task.cancel();
    const moved = await order();
    await sql`update tasks set webhook = 'http://10.0.0.1/' where id = ${moved.id}`;
    await moved.cancel();
    await work();
    expect(await task.log()).toMatchObject([
      { status: "pending", attempts: [{ status_code: null, error: "The server cannot be reached or broke off." }] },
    ]);
    expect(await moved.log()).toMatchObject([
      { status: "failed", attempts: [{ status_code: null, error: "This host is not a public one." }] },
    ]);
  });

  test("one that hangs keeps at most four attempts, the rest of its user's waits without counting one", async () => {
    const owner = await app.signUp();
    const tasks = await Promise.all([1, 2, 3, 4, 5, 6].map(() => order({}, owner)));
    for (const task of tasks) await task.cancel();
    const other = await order();
    await other.cancel();
    const release = Promise.withResolvers<void>();
    answer = async (request) => {
      if (JSON.parse(received.at(-1)?.body ?? "{}").data.user_id === (owner as Json).id) await release.promise;
      return new Response(null, { status: request.method === "POST" ? 204 : 500 });
    };
    const working = work();
    // Its four attempts are under way by then or soon after.
    while ((await other.log())[0].status !== "delivered" || received.length < 5) await Bun.sleep(5);
    const logs = async () => (await Promise.all(tasks.map((task) => task.log()))).flat();
    expect((await logs()).every(({ attempts }) => attempts.length === 0)).toBe(true);
    expect(received).toHaveLength(5);
    release.resolve();
    await working;
    await wait();
    await work();
    expect((await logs()).map(({ status, attempts }) => [status, attempts.length])).toEqual(
      Array.from({ length: 6 }, () => ["delivered", 1]),
    );
  });
});

describe("crashes", () => {
  test("a job that runs twice sends once; one that died with its worker is added again", async () => {
    const task = await order();
    await task.cancel();
    const [row] = await sql<{ id: string }[]>`select id from deliveries where task_id = ${task.id}`;
    const payload = { delivery_id: row?.id };
    await Promise.all([deliver(payload), deliver(payload)]);
    await deliver(payload);
    expect(received).toHaveLength(1);

    const lost = await order();
    await lost.cancel();
    await sql`delete from graphile_worker._private_jobs`;
    await remindOverdue(sql);
    expect(await work()).toBe(0);
    // The worker had begun the attempt when it died.
    await sql`update deliveries set tries = 1, due_at = now() - interval '31 seconds' where task_id = ${lost.id}`;
    await remindOverdue(sql);
    await remindOverdue(sql);
    expect(await work()).toBe(1);
    expect((await lost.log())[0].status).toBe("delivered");
  });

  test("an answer that comes after its attempt was taken over changes nothing", async () => {
    const task = await order();
    await task.cancel();
    answer = async () => {
      await sql`update deliveries set tries = tries + 1 where task_id = ${task.id}`;
      return new Response(null, { status: 410 });
    };
    await work();
    expect(await task.log()).toMatchObject([{ status: "pending", attempts: [] }]);
  });
});

describe("redelivery", () => {
  test("sends the same message again, to where the webhook points now", async () => {
    const task = await order();
    await task.cancel();
    answer = () => new Response(null, { status: 410 });
    await work();
    answer = () => new Response(null, { status: 200 });
    const body = { webhook: `http://127.0.0.1:${receiver.port}/moved` };
    await app.call("PATCH", `/api/tasks/${task.id}`, { token: task.owner.token, body });
    const again = await task.redeliver(1);
    expect([again.status, again.body.status]).toEqual([202, "pending"]);
    await work();
    expect(received.map(({ path }) => path)).toEqual(["/hook", "/moved"]);
    expect(received[1]?.body).toBe(received[0]?.body as string);
    expect(received[1]?.headers.get("webhook-id")).toBe(received[0]?.headers.get("webhook-id") as string);
    expect(await task.log()).toMatchObject([{ status: "delivered", attempts: [{}, { status_code: 200 }] }]);
  });

  test("once for each Idempotency-Key", async () => {
    const task = await order();
    await task.cancel();
    await work();
    const headers = { "Idempotency-Key": "again" };
    const first = await task.redeliver(1, task.owner.token, headers);
    await work();
    const second = await task.redeliver(1, task.owner.token, headers);
    await work();
    expect(received).toHaveLength(2);
    expect([second.status, second.text]).toEqual([202, first.text]);
    expect(second.headers.get("idempotency-replayed")).toBe("true");
  });

  test("what is not there, or carries a body or a query, is refused", async () => {
    const task = await order();
    for (const n of ["1", "0", "x", "99999999999"]) {
      const { status } = await app.call("POST", `${task.path}/${n}/redeliver`, { token: task.owner.token });
      expect(status).toBe(404);
    }
    await task.cancel();
    const post = (path: string, body?: Json) => app.call("POST", path, { token: task.owner.token, body });
    expect((await post(`${task.path}/1/redeliver`, { url: "http://x/" })).status).toBe(422);
    expect((await post(`${task.path}/1/redeliver?n=2`)).status).toBe(400);
    expect((await post(`${task.path}/1/redeliver`, {})).status).toBe(202);
    const listed = (query: string) => app.call("GET", `${task.path}?${query}`, { token: task.owner.token });
    expect((await listed("page=0")).status).toBe(400);
    expect((await listed("status=failed")).status).toBe(400);
    expect((await listed("page=2&pageSize=1")).body).toMatchObject({ page: 2, total: 1, next: false, list: [] });
  });
});

test("the log is for the owner and admins; a private task is none to others", async () => {
  const open = await order({ public: true });
  const hidden = await order();
  await open.cancel();
  await hidden.cancel();
  const ask = async (method: string, path: string, token?: string) => (await app.call(method, path, { token })).status;
  for (const { task, strangers } of [
    { task: open, strangers: 403 },
    { task: hidden, strangers: 404 },
  ]) {
    expect(await ask("GET", task.path)).toBe(401);
    expect(await ask("GET", task.path, stranger.token)).toBe(strangers);
    expect(await ask("GET", task.path, admin.token)).toBe(200);
    expect(await ask("POST", `${task.path}/1/redeliver`)).toBe(401);
    expect(await ask("POST", `${task.path}/1/redeliver`, stranger.token)).toBe(strangers);
    expect(await ask("POST", `${task.path}/1/redeliver`, admin.token)).toBe(202);
  }
  const missing = await app.call("GET", "/api/tasks/2000000000/deliveries", { token: stranger.token });
  const invisible = await app.call("GET", hidden.path, { token: stranger.token });
  expect(missing.text.replace("2000000000", "")).toBe(invisible.text.replace(String(hidden.id), ""));
});

test("a task's deletion leaves what is still to be told, a user's takes it along", async () => {
  const task = await order();
  await app.call("DELETE", `/api/tasks/${task.id}`, { token: task.owner.token });
  await work();
  expect(received.map(({ body }) => JSON.parse(body).type)).toEqual(["task.canceled"]);

  const leaving = await order();
  await app.call("DELETE", `/api/users/${(leaving.owner as Json).id}`, { token: leaving.owner.token });
  await work();
  expect(received).toHaveLength(1);
});

test("a worker carries them, and stops without waiting for a receiver that hangs", async () => {
  const { secrets, storage, log, databaseUrl, directory: temporaryDirectory } = app;
  const webhooks = createWebhookGuard(["127.0.0.1"]);
  const worker = await startWorker(
    { sql, secrets, storage, webhooks, log, temporaryDirectory },
    { databaseUrl, concurrency: 1, maxRunning: 100 },
  );
  const arrived = Promise.withResolvers<void>();
  const hanging = Promise.withResolvers<Response>();
  answer = () => {
    arrived.resolve();
    return hanging.promise;
  };
  const task = await order();
  await task.cancel();
  await arrived.promise;
  await worker.stop();
  hanging.resolve(new Response());
  expect(await task.log()).toMatchObject([{ status: "pending", attempts: [] }]);
  answer = () => new Response();
  await work();
  expect(received).toHaveLength(2);
  expect(await task.log()).toMatchObject([{ status: "delivered", attempts: [{ status_code: 200 }] }]);
});

describe("secrets", () => {
  test("a new one signs beside the old one for a day, then alone; nothing is kept in the clear", async () => {
    const { token, id } = await app.signUp();
    const old = await secretOf(token);
    const present = await secretOf(token);
    const told = async () => {
      await (await order({}, { token })).cancel();
      await work();
      return received.at(-1) as Received;
    };
    const both = await told();
    expect(signaturesOn(both)).toEqual([present, old].map((secret) => signatureOf(secret, both)));
    await sql`update webhook_secrets set expires_at = now() where user_id = ${id} and expires_at is not null`;
    const one = await told();
    expect(signaturesOn(one)).toEqual([signatureOf(present, one)]);
    const rows = JSON.stringify(await sql`select * from webhook_secrets`);
    for (const secret of [old, present]) expect(rows).not.toContain(secret.slice(6));
  });

  test("at once: one of them is the present one", async () => {
    const { token, id } = await app.signUp();
    const secrets = await Promise.all(Array.from({ length: 8 }, () => secretOf(token)));
    expect(new Set(secrets).size).toBe(8);
    const rows = await sql`select expires_at from webhook_secrets where user_id = ${id}`;
    expect(rows.filter((row) => row.expires_at === null)).toHaveLength(1);
  });

  test("is nobody's but the caller's, takes no key, and is never cached", async () => {
    const post = (token?: string, headers = {}) => app.call("POST", "/api/account/webhook-secret", { token, headers });
    expect((await post()).status).toBe(401);
    const refused = await post(stranger.token, { "Idempotency-Key": "x" });
    expect([refused.status, refused.body.code]).toEqual([400, "idempotency-key-refused"]);
    expect((await post(stranger.token)).headers.get("cache-control")).toBe("no-store");
  });
});

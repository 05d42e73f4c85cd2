/** Log-ins: tokens, their ends, and the account of the caller. */
import { describe, expect, test } from "bun:test";
import { createHash, randomUUID } from "node:crypto";
import { type Json, password, startApp } from "../helpers/app.ts";

const app = await startApp();
const admin = await app.admin();

const logIn = (email: string, secret = password, token?: string) =>
  app.call("POST", "/api/sessions", { token, body: { email, password: secret } });
const isAlive = async (token: string) => (await app.call("GET", "/api/account", { token })).status === 200;

describe("log-in", () => {
  test("twice gives two sessions; deleting one leaves the other", async () => {
    const user = await app.signUp();
    const [one, two] = await Promise.all([logIn(user.email), logIn(user.email)]);
    expect(one.body).toEqual({
      id: expect.any(String),
      ip: "192.0.2.1",
      user_id: user.id,
      user_agent: "",
      status: "active",
      expires_at: expect.any(String),
      current: true,
      created_at: expect.any(String),
      updated_at: expect.any(String),
      token: expect.stringMatching(/^[\w-]{43}$/),
    });
    expect(one.body.token).not.toBe(two.body.token);
    const path = `/api/sessions/${one.body.id}`;
    expect((await app.call("DELETE", path, { token: one.body.token })).status).toBe(204);
    expect([await isAlive(one.body.token), await isAlive(two.body.token)]).toEqual([false, true]);
  });

  test("an unknown address, a wrong password and a disabled user are answered alike", async () => {
    const [user, disabled] = await Promise.all([app.signUp(), app.signUp()]);
    await app.sql`update users set disabled = true where id = ${disabled.id}`;
    const answers = await Promise.all([
      logIn(user.email, "wrong password"),
      logIn(`${randomUUID()}@example.com`),
      logIn(disabled.email),
      logIn("not an address"),
    ]);
    expect(answers.map((answer) => answer.status)).toEqual([401, 401, 401, 401]);
    expect(new Set(answers.map((answer) => answer.text)).size).toBe(1);
  });

  test("a stale token keeps nobody out", async () => {
    const user = await app.signUp();
    expect((await logIn(user.email, password, "stale")).status).toBe(201);
  });

  test.each([{}, { email: "a@example.com" }, { password: "x" }, { email: 1, password: [] }])(
    "%j is 422",
    async (body) => {
      expect((await app.call("POST", "/api/sessions", { body })).status).toBe(422);
    },
  );
});

test("the token is nowhere but in that answer: no other answer, no table", async () => {
  const user = await app.signUp();
  const { token, id } = (await logIn(user.email)).body;
  for (const path of ["/api/sessions", `/api/sessions/${id}`, "/api/account", `/api/users/${user.id}`]) {
    const answer = await app.call("GET", path, { token });
    expect([path, answer.status, answer.text.includes(token)]).toEqual([path, 200, false]);
    expect(answer.text).not.toContain("token");
  }
  const tables = await app.sql<{ name: string }[]>`
    select format('%I.%I', schemaname, tablename) as name from pg_tables
    where schemaname in ('public', 'graphile_worker')
  `;
  for (const { name } of tables) {
    const rows = await app.sql.unsafe(`select 1 from ${name} t where strpos(t::text, $1) > 0`, [token]);
    expect([name, rows.length]).toEqual([name, 0]);
  }
});

test("a token is 256 random bits, of which the database holds the SHA-256; the session lasts 30 days without use", async () => {
  const { body } = await logIn((await app.signUp()).email);
  const bytes = Buffer.from(body.token, "base64url");
  expect([bytes.length, body.id === body.token]).toEqual([32, false]);
  const [row] = await app.sql`
    select token_hash, expires_at - created_at as lasts, expires_at = created_at + interval '30 days' as is_month
    from sessions where id = ${body.id}
  `;
  const digests = [bytes, body.token].map((secret) => createHash("sha256").update(secret).digest("hex"));
  expect(digests).toContain(Buffer.from(row?.token_hash).toString("hex"));
  expect(row?.is_month).toBe(true);
});

describe("the state of a session", () => {
  const patch = (id: string, token: string, status: string) =>
    app.call("PATCH", `/api/sessions/${id}`, { token, body: { status } });

  test("revoked ends it and keeps the record; it cannot be revived", async () => {
    const user = await app.signUp();
    const other = await app.logIn(user.id);
    expect((await patch(other.sessionId, user.token, "revoked")).body.status).toBe("revoked");
    expect(await isAlive(other.token)).toBe(false);
    const kept = await app.call("GET", `/api/sessions/${other.sessionId}`, { token: user.token });
    expect(kept.body).toMatchObject({ status: "revoked", current: false });
    expect((await patch(other.sessionId, user.token, "revoked")).status).toBe(200);
    const revived = await patch(other.sessionId, user.token, "active");
    expect([revived.status, revived.body.code]).toEqual([409, "session-revoked"]);
  });

  test("active extends it", async () => {
    const user = await app.signUp();
    const other = await app.logIn(user.id);
    await app.sql`update sessions set expires_at = now() + interval '1 hour' where id = ${other.sessionId}`;
    const { body } = await patch(other.sessionId, user.token, "active");
    expect(Date.parse(body.expires_at) - Date.now()).toBeGreaterThan(29 * 24 * 3600 * 1000);
  });

  test("revoking the own one is a log-out", async () => {
    const user = await app.signUp();
    expect((await patch(user.sessionId, user.token, "revoked")).status).toBe(200);
    expect(await isAlive(user.token)).toBe(false);
  });

  test("one's own list names the current one; admins see and end all", async () => {
    const user = await app.signUp();
    const other = await app.logIn(user.id);
    const { body } = await app.call("GET", "/api/sessions", { token: user.token });
    expect(body.list.map((row: Json) => [row.id, row.current]).sort()).toEqual(
      [
        [user.sessionId, true],
        [other.sessionId, false],
      ].sort(),
    );
    const all = await app.call("GET", `/api/sessions?user_id=${user.id}`, { token: admin.token });
    expect(all.body.total).toBe(2);
    expect((await app.call("DELETE", `/api/sessions/${other.sessionId}`, { token: admin.token })).status).toBe(204);
    expect(await isAlive(other.token)).toBe(false);
  });
});

describe("the account", () => {
  const patch = (token: string, body: Json) => app.call("PATCH", "/api/account", { token, body });

  test("is the caller with its session; guests have none", async () => {
    const user = await app.signUp();
    const { body } = await app.call("GET", "/api/account", { token: user.token });
    expect(body).toEqual({
      id: user.id,
      name: "user",
      email: user.email,
      admin: false,
      session_id: user.sessionId,
      created_at: expect.any(String),
      updated_at: expect.any(String),
    });
    expect((await app.call("GET", "/api/account")).status).toBe(401);
    expect((await app.call("PATCH", "/api/account", { body: {} })).status).toBe(401);
  });

  test("the name needs no password; address and password need the present one", async () => {
    const user = await app.signUp();
    expect((await patch(user.token, { name: "Ada" })).body.name).toBe("Ada");
    const address = `${randomUUID()}@example.com`;
    for (const body of [
      { email: address },
      { password: "another password" },
      { email: address, current_password: "wrong password" },
      { email: address, current_password: 7 },
    ]) {
      const answer = await patch(user.token, body);
      expect([answer.status, answer.body.errors[0].pointer]).toEqual([422, "/current_password"]);
    }
    expect((await patch(user.token, { email: address, current_password: password })).body.email).toBe(address);
    for (const body of [{ admin: true }, { disabled: true }, { id: 1 }]) {
      expect((await patch(user.token, body)).status).toBe(422);
    }
  });

  test("a new password revokes the other sessions and keeps this one", async () => {
    const user = await app.signUp();
    const other = await app.logIn(user.id);
    const body = { password: "another password", current_password: password };
    expect((await patch(user.token, body)).status).toBe(200);
    expect([await isAlive(user.token), await isAlive(other.token)]).toEqual([true, false]);
    expect((await logIn(user.email)).status).toBe(401);
    expect((await logIn(user.email, body.password)).status).toBe(201);
  });

  test("takes no parameters, and refuses an address that is taken", async () => {
    const user = await app.signUp();
    for (const method of ["GET", "PATCH"]) {
      const answer = await app.call(method, "/api/account?x=1", {
        token: user.token,
        body: method === "PATCH" ? {} : undefined,
      });
      expect(answer.status).toBe(400);
    }
    const taken = await patch(user.token, { email: admin.email.toUpperCase(), current_password: password });
    expect([taken.status, taken.body.code]).toEqual([409, "email-taken"]);
  });
});

test("a session is extended once an hour, however many requests use it", async () => {
  const user = await app.signUp();
  const versions = async () =>
    (await app.sql`select version, expires_at from sessions where id = ${user.sessionId}`)[0] as Json;
  const fresh = await versions();
  await Promise.all(Array.from({ length: 10 }, () => app.call("GET", "/api/account", { token: user.token })));
  expect(await versions()).toEqual(fresh);
  await app.sql`update sessions set expires_at = expires_at - interval '61 minutes' where id = ${user.sessionId}`;
  const stale = await versions();
  await Promise.all(Array.from({ length: 10 }, () => app.call("GET", "/api/account", { token: user.token })));
  expect((await versions()).version).toBe(stale.version + 1);
  expect((await versions()).expires_at > stale.expires_at).toBe(true);
});

test("a session that has expired cannot be extended by another", async () => {
  const user = await app.signUp();
  const old = await app.logIn(user.id);
  await app.sql`update sessions set expires_at = now() - interval '1 minute' where id = ${old.sessionId}`;
  const path = `/api/sessions/${old.sessionId}`;
  expect((await app.call("PATCH", path, { token: user.token, body: { status: "active" } })).status).toBe(409);
  expect((await app.call("GET", "/api/account", { token: old.token })).status).toBe(401);
});

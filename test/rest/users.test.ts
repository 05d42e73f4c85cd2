/** Sign-up, accounts, and the last admin. */
import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { type Json, password, startApp } from "../helpers/app.ts";

const app = await startApp();
const closed = await startApp({ isSignupOpen: false });
const admin = await app.admin();
const email = () => `${randomUUID()}@example.com`;

describe("sign-up", () => {
  test("a guest gets its own, full view, named after the address, and can log in", async () => {
    const address = `Ada.${randomUUID()}@Example.com`;
    const { status, body } = await app.call("POST", "/api/users", { body: { email: address, password } });
    expect(status).toBe(201);
    expect(body).toEqual({
      id: expect.any(Number),
      name: address.split("@")[0],
      email: address,
      admin: false,
      disabled: false,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      updated_at: expect.any(String),
    });
    const login = await app.call("POST", "/api/sessions", { body: { email: address.toUpperCase(), password } });
    expect([login.status, login.body.user_id]).toEqual([201, body.id]);
  });

  test("an address is taken whatever its letter case", async () => {
    const address = email();
    await app.make("users", admin.token, { email: address, password });
    const again = await app.call("POST", "/api/users", { body: { email: address.toUpperCase(), password } });
    expect([again.status, again.body.code]).toEqual([409, "email-taken"]);
  });

  test.each([
    { what: "no address", body: { password }, pointers: ["/email"] },
    { what: "nothing", body: {}, pointers: ["/email", "/password"] },
    { what: "a wrong address", body: { email: "ada", password }, pointers: ["/email"] },
    { what: "a short password", body: { email: "a@example.com", password: "1234567" }, pointers: ["/password"] },
    { what: "a long password", body: { email: "a@example.com", password: "x".repeat(129) }, pointers: ["/password"] },
    { what: "no name", body: { email: "a@example.com", password, name: " " }, pointers: ["/name"] },
    { what: "a hash", body: { email: "a@example.com", password, password_hash: "x" }, pointers: ["/password_hash"] },
  ])("$what is 422", async ({ body, pointers }) => {
    const answer = await app.call("POST", "/api/users", { body });
    expect(answer.status).toBe(422);
    expect(answer.body.errors.map((error: Json) => error.pointer)).toEqual([...pointers]);
  });

  test.each([8, 128])("a password of %d characters will do, and is kept as argon2id alone", async (length) => {
    const secret = "x".repeat(length);
    const { status, body } = await app.call("POST", "/api/users", { body: { email: email(), password: secret } });
    expect(status).toBe(201);
    const [row] = await app.sql`select users::text as text, password_hash from users where id = ${body.id}`;
    expect(row?.password_hash).toStartWith("$argon2id$");
    expect(row?.text).not.toContain(secret);
  });

  test("SIGNUP=closed keeps guests and users out, not admins", async () => {
    const [user, chief] = await Promise.all([closed.signUp(), closed.admin()]);
    const post = (token?: string) => closed.call("POST", "/api/users", { token, body: { email: email(), password } });
    expect((await post()).status).toBe(403);
    expect((await post(user.token)).status).toBe(403);
    expect((await post(chief.token)).status).toBe(201);
  });
});

describe("what is shown", () => {
  test("others see the name, oneself and admins all but the password", async () => {
    const [user, other] = await Promise.all([app.signUp(), app.signUp()]);
    const fields = async (token?: string) =>
      Object.keys((await app.call("GET", `/api/users/${user.id}`, { token })).body).sort();
    const all = ["admin", "created_at", "disabled", "email", "id", "name", "updated_at"];
    expect(await fields()).toEqual(["created_at", "id", "name"]);
    expect(await fields(other.token)).toEqual(["created_at", "id", "name"]);
    expect(await fields(user.token)).toEqual(all);
    expect(await fields(admin.token)).toEqual(all);
    const listed = await app.call("GET", "/api/users?pageSize=200", { token: user.token });
    expect(listed.body.list.filter((row: Json) => "email" in row).map((row: Json) => row.id)).toEqual([user.id]);
    expect(listed.text).not.toContain("argon2");
  });
});

describe("changes", () => {
  test("a user changes its name; the rest is the admins' (403 by name)", async () => {
    const user = await app.signUp();
    const patch = (body: Json) => app.call("PATCH", `/api/users/${user.id}`, { token: user.token, body });
    expect((await patch({ name: "Ada" })).body.name).toBe("Ada");
    for (const body of [{ admin: true }, { email: email() }, { password }, { disabled: false }]) {
      const answer = await patch(body);
      expect([answer.status, answer.body.detail]).toEqual([403, expect.stringContaining(Object.keys(body)[0] ?? "")]);
    }
  });

  test("a disabled user is out at once, and cannot log in until enabled", async () => {
    const user = await app.signUp();
    const set = (disabled: boolean) =>
      app.call("PATCH", `/api/users/${user.id}`, { token: admin.token, body: { disabled } });
    const login = () => app.call("POST", "/api/sessions", { body: { email: user.email, password } });
    await set(true);
    expect((await app.call("GET", "/api/account", { token: user.token })).status).toBe(401);
    expect((await login()).status).toBe(401);
    await set(false);
    expect((await app.call("GET", "/api/account", { token: user.token })).status).toBe(401);
    expect((await login()).status).toBe(201);
  });

  test("a password that an admin sets revokes the user's sessions, and the admin stays", async () => {
    const user = await app.signUp();
    const body = { password: "another password" };
    expect((await app.call("PATCH", `/api/users/${user.id}`, { token: admin.token, body })).status).toBe(200);
    expect((await app.call("GET", "/api/account", { token: user.token })).status).toBe(401);
    expect((await app.call("GET", "/api/account", { token: admin.token })).status).toBe(200);
    const login = (secret: string) =>
      app.call("POST", "/api/sessions", { body: { email: user.email, password: secret } });
    expect([(await login(password)).status, (await login(body.password)).status]).toEqual([401, 201]);
  });

  test("deleting oneself takes along what one owns", async () => {
    const user = await app.signUp();
    const dataset = await app.make("datasets", user.token, { images: [], public: true });
    expect((await app.call("DELETE", `/api/users/${user.id}`, { token: user.token })).status).toBe(204);
    expect((await app.call("GET", `/api/datasets/${dataset.id}`)).status).toBe(404);
    expect((await app.call("GET", "/api/account", { token: user.token })).status).toBe(401);
  });
});

describe("the last admin must stay", () => {
  test.each([
    { how: "demoted", ask: { method: "PATCH", body: { admin: false } } },
    { how: "disabled", ask: { method: "PATCH", body: { disabled: true } } },
    { how: "deleted", ask: { method: "DELETE", body: undefined } },
  ])("$how: 409", async ({ ask }) => {
    const last = await closed.admin();
    await closed.sql`update users set admin = (id = ${last.id})`;
    const answer = await closed.call(ask.method, `/api/users/${last.id}`, { token: last.token, body: ask.body });
    expect([answer.status, answer.body.code]).toEqual([409, "last-admin"]);
    expect((await closed.call("GET", "/api/account", { token: last.token })).body.admin).toBe(true);
  });

  test("of two who resign at once, one stays", async () => {
    for (let round = 0; round < 5; round += 1) {
      const [one, two] = await Promise.all([closed.admin(), closed.admin()]);
      await closed.sql`update users set admin = id in (${one.id}, ${two.id})`;
      const answers = await Promise.all(
        [one, two].map(({ id, token }) => closed.call("PATCH", `/api/users/${id}`, { token, body: { admin: false } })),
      );
      expect(answers.map((answer) => answer.status).sort()).toEqual([200, 409]);
    }
  });

  test("a disabled admin does not count", async () => {
    const [one, two] = await Promise.all([closed.admin(), closed.admin()]);
    await closed.sql`update users set admin = id in (${one.id}, ${two.id}), disabled = (id = ${two.id})`;
    const answer = await closed.call("DELETE", `/api/users/${one.id}`, { token: one.token });
    expect(answer.status).toBe(409);
  });
});

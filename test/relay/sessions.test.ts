/** Who may open a socket, how it is refused, and what becomes of it when rights change. */
import { describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import { type CallOptions, startApp } from "../helpers/app.ts";
import { sampleOf } from "../helpers/samples.ts";
import { handshake, listen } from "../helpers/socket.ts";
import { expectedStatus, type Kind, owned, viewers } from "../rest/access.ts";

const allowedOrigin = "https://studio.example";
const app = await startApp({ allowedOrigins: [allowedOrigin] });
const server = await listen(app);
const owner = await app.signUp("owner");
const admin = await app.admin();
const hidden = (await app.make("datasets", owner.token, { images: [] })).id;
const shown = (await app.make("datasets", owner.token, { images: [], public: true })).id;

const [revoked, expired] = await Promise.all([app.logIn(owner.id), app.logIn(owner.id)]);
await app.sql`update sessions set status = 'revoked', revoked_at = now() where id = ${revoked.sessionId}`;
await app.sql`update sessions set expires_at = now() where id = ${expired.sessionId}`;
const tokens: Record<Kind, string | undefined> = {
  guest: undefined,
  stranger: (await app.signUp("stranger")).token,
  owner: owner.token,
  admin: admin.token,
  revoked: revoked.token,
  expired: expired.token,
  garbage: "not-a-token",
};

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

describe("the handshake is answered as GET would be, before any upgrade", () => {
  test.each([
    { who: "a guest, on a public object", path: `datasets/${shown}`, headers: {}, status: 101 },
    { who: "a guest, on a private object", path: `datasets/${hidden}`, headers: {}, status: 404 },
    { who: "the owner", path: `datasets/${hidden}`, headers: bearer(owner.token), status: 101 },
    { who: "the owner by the plain header", path: `datasets/${hidden}`, headers: { Token: owner.token }, status: 101 },
    { who: "a wrong token", path: `datasets/${shown}`, headers: bearer("wrong"), status: 401 },
    { who: "a guest, on a session", path: `sessions/${owner.sessionId}`, headers: {}, status: 401 },
    { who: "anyone, on nothing", path: "datasets/2000000000", headers: {}, status: 404 },
    { who: "anyone, on no id", path: "datasets/abc", headers: {}, status: 404 },
    { who: "a foreign page", path: `datasets/${shown}`, headers: { Origin: "https://evil.example" }, status: 403 },
    {
      who: "a foreign page with a wrong token",
      path: `datasets/${shown}`,
      headers: { Origin: "https://evil.example", ...bearer("wrong") },
      status: 403,
    },
    { who: "an allowed page", path: `datasets/${shown}`, headers: { Origin: allowedOrigin }, status: 101 },
    { who: "a token in the URL", path: `datasets/${hidden}?token=${owner.token}`, headers: {}, status: 400 },
  ])("$who: $status", async ({ path, headers, status }) => {
    const answer = await handshake(server.port, `/api/${path}`, headers as Record<string, string>);
    expect(answer.status).toBe(status);
    if (status !== 101) {
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
      expect(JSON.parse(answer.body).status).toBe(status);
    }
  });

  describe("for every resource and every kind of viewer", () => {
    const objects = resources.flatMap(({ name }) =>
      (owned.includes(name) ? [false, true] : [false]).map((isPublic) => ({ name, isPublic })),
    );
    test.each(objects)("$name, public: $isPublic", async ({ name, isPublic }) => {
      const id = name === "users" ? owner.id : await sampleOf(name).make(app, { owner, admin }, isPublic);
      const opened = viewers.map(async (viewer) => {
        const get = expectedStatus(name, "get", viewer, isPublic);
        const list = expectedStatus(name, "list", viewer, isPublic);
        const token = tokens[viewer];
        const ask = (path: string) => handshake(server.port, path, token === undefined ? {} : bearer(token));
        const [one, many] = [await ask(`/api/${name}/${id}`), await ask(`/api/${name}`)];
        expect([viewer, one.status, many.status]).toEqual([viewer, get === 200 ? 101 : get, list === 200 ? 101 : list]);
      });
      await Promise.all(opened);
    });
  });

  test("a refusal for a hidden object and for a missing one are alike", async () => {
    const ask = async (id: number) => (await handshake(server.port, `/api/datasets/${id}`)).body;
    const missing = 2_000_000_000;
    expect((await ask(hidden)).replaceAll(String(hidden), "ID")).toBe(
      (await ask(missing)).replaceAll(String(missing), "ID"),
    );
  });
});

describe("subprotocols, for browsers, which cannot set headers", () => {
  const offer = (protocols: string) => ({ "Sec-WebSocket-Protocol": protocols });

  test.each([
    { offered: () => `atelier.v1, bearer.${owner.token}` },
    { offered: () => `bearer.${owner.token}, atelier.v1` },
    { offered: () => `bearer.${owner.token},atelier.v1` },
  ])("the token is taken and never echoed", async ({ offered }) => {
    const answer = await handshake(server.port, `/api/datasets/${hidden}`, offer(offered()));
    expect(answer.status).toBe(101);
    expect(answer.headers.get("sec-websocket-protocol")).toBe("atelier.v1");
    expect([...answer.headers.values()].join()).not.toContain(owner.token);
  });

  test.each([
    { offered: "atelier.v1, bearer.wrong", status: 401 },
    { offered: "other.v1", status: 400 },
  ])("$offered: $status", async ({ offered, status }) => {
    expect((await handshake(server.port, `/api/datasets/${shown}`, offer(offered))).status).toBe(status);
  });

  test("a client that offers them gets its frames", async () => {
    const watch = await server.watch(`datasets/${hidden}`, { protocols: ["atelier.v1", `bearer.${owner.token}`] });
    expect(watch.socket.protocol).toBe("atelier.v1");
    expect(watch.state.id).toBe(hidden);
  });
});

describe("a session that ends closes its sockets with 4401 within a second", () => {
  const endings: { how: string; end: (s: { sessionId: string; token: string; userId: number }) => Promise<unknown> }[] =
    [
      {
        how: "revoked by PATCH",
        end: (s) => app.call("PATCH", `/api/sessions/${s.sessionId}`, { token: s.token, body: { status: "revoked" } }),
      },
      { how: "deleted by DELETE", end: (s) => app.call("DELETE", `/api/sessions/${s.sessionId}`, { token: s.token }) },
      {
        how: "of a user who is disabled",
        end: (s) => app.call("PATCH", `/api/users/${s.userId}`, { token: admin.token, body: { disabled: true } }),
      },
      { how: "of a user who is deleted", end: (s) => app.call("DELETE", `/api/users/${s.userId}`, { token: s.token }) },
      {
        how: "of a user with a new password",
        end: (s) =>
          app.call("PATCH", `/api/users/${s.userId}`, {
            token: admin.token,
            body: { password: "another password" },
          } satisfies CallOptions),
      },
    ];
  test.each(endings)("$how", async ({ end }) => {
    const user = await app.signUp();
    const watch = await server.watch(`datasets/${shown}`, { token: user.token });
    const guest = await server.watch(`datasets/${shown}`);
    const other = await server.watch(`datasets/${shown}`, { token: owner.token });
    await end({ ...user, userId: user.id });
    const since = performance.now();
    expect((await watch.closed).code).toBe(4401);
    expect(performance.now() - since).toBeLessThan(1_000);
    expect([guest.socket.readyState, other.socket.readyState]).toEqual([1, 1]);
  });
});

describe("a role that is taken away acts on open sockets", () => {
  test("what was visible to an admin alone is gone", async () => {
    const demoted = await app.admin("demoted");
    const watch = await server.watch(`datasets/${hidden}`, { token: demoted.token });
    await app.call("PATCH", `/api/users/${demoted.id}`, { token: admin.token, body: { admin: false } });
    expect((await watch.closed).code).toBe(1000);
    expect(watch.frames.at(-1)?.type).toBe("delete");
  });

  test("what stays visible loses the fields that admins alone see, and gains them back", async () => {
    const user = await app.admin("demoted");
    const { id } = await app.make("tags", admin.token, { name: "watched" });
    expect(id).toBeGreaterThan(0);
    const watch = await server.watch(`users/${admin.id}`, { token: user.token });
    expect(watch.state.email).toBe(admin.email);
    const setAdmin = (isAdmin: boolean) =>
      app.call("PATCH", `/api/users/${user.id}`, { token: admin.token, body: { admin: isAdmin } });
    await setAdmin(false);
    await watch.until((state) => !("email" in state));
    expect(watch.state).toEqual((await app.call("GET", `/api/users/${admin.id}`, { token: user.token })).body);
    await setAdmin(true);
    await watch.until((state) => state.email === admin.email);
    expect(watch.state).toEqual((await app.call("GET", `/api/users/${admin.id}`, { token: user.token })).body);
  });
});

test("a message above 64 KB closes 1009, a smaller one is ignored", async () => {
  const watch = await server.watch(`datasets/${shown}`);
  watch.socket.send("x".repeat(60_000));
  await app.sql`update datasets set name = 'still here' where id = ${shown}`;
  await watch.until(({ name }) => name === "still here");
  watch.socket.send("x".repeat(70_000));
  expect((await watch.closed).code).toBe(1009);
});

test("a server that stops closes its sockets with 1001", async () => {
  const other = await listen(app);
  const watch = await other.watch(`datasets/${shown}`);
  await other.stop();
  expect((await watch.closed).code).toBe(1001);
});

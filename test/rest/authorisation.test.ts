/** Every resource, every verb, every kind of caller: the contract's table of who may do what. */
import { describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import type { Resource } from "../../src/rest/define.ts";
import { type Answer, type Json, startApp } from "../helpers/app.ts";
import { type Asked, operations, othersOf, type SampleOperation } from "../helpers/operations.ts";
import { sampleOf } from "../helpers/samples.ts";
import { expectedOfOperation, expectedStatus, type Kind, owned, type Verb, verbs, viewers } from "./access.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const revoked = await app.signUp("revoked");
await app.sql`update sessions set status = 'revoked', revoked_at = now() where id = ${revoked.sessionId}`;
const expired = await app.signUp("expired");
await app.sql`update sessions set expires_at = now() where id = ${expired.sessionId}`;

const methods: Record<Verb, string> = { list: "GET", get: "GET", post: "POST", patch: "PATCH", delete: "DELETE" };

const tokens: Record<Kind, string | undefined> = {
  guest: undefined,
  stranger: stranger.token,
  owner: owner.token,
  admin: admin.token,
  revoked: revoked.token,
  expired: expired.token,
  garbage: "not-a-token",
};

/** What nothing is done to serves all who ask: an object of each resource, and whose it is. */
const shared = new Map<string, ReturnType<typeof makeTarget>>();
const keep = <T>(kept: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> => {
  const made = kept.get(key) ?? make();
  kept.set(key, made);
  return made;
};

/** Users own themselves: the owner of a fresh user is that user. */
async function makeTarget(name: string, isPublic: boolean) {
  const target = name === "users" ? await app.signUp("target") : owner;
  const id = name === "users" ? target.id : await sampleOf(name).make(app, { owner, admin }, isPublic);
  return { id, tokenOf: (viewer: Kind) => (viewer === "owner" ? target.token : tokens[viewer]) };
}

interface Case {
  verb: Verb;
  viewer: Kind;
  status: number;
}

async function request(name: string, { verb, viewer, status }: Case, isPublic: boolean, isBulk: boolean) {
  const changes = status < 300 && (verb === "patch" || verb === "delete");
  const { id, tokenOf } = changes
    ? await makeTarget(name, isPublic)
    : await keep(shared, `${name} ${isPublic}`, () => makeTarget(name, isPublic));
  const collection = `/api/${name}`;
  const object = isBulk ? `${collection}?id=${id}` : `${collection}/${id}`;
  const { post, patch } = sampleOf(name);
  // A POST's references are to what this viewer may use, when it may do anything.
  const as = viewer === "stranger" ? stranger : viewer === "admin" ? admin : owner;
  const made = verb === "post" && post ? await post(app, { as, owner }) : {};
  const bodies: Partial<Record<Verb, Json>> = { post: isBulk ? [made] : made, patch };
  const path = verb === "list" || verb === "post" ? collection : object;
  return app.call(methods[verb], path, { token: tokenOf(viewer), body: bodies[verb] });
}

function expectStatus(answer: Answer, status: number): void {
  expect({ status: answer.status, body: answer.status === status ? "" : answer.text }).toEqual({ status, body: "" });
}

for (const { name, isBulk } of resources as readonly Resource[]) {
  for (const isPublic of owned.includes(name) ? [false, true] : [false]) {
    describe(`${owned.includes(name) ? (isPublic ? "public " : "private ") : ""}${name}`, () => {
      const casesOf = (some: readonly Verb[]): Case[] =>
        some.flatMap((verb) =>
          viewers.map((viewer) => ({ viewer, verb, status: expectedStatus(name, verb, viewer, isPublic) })),
        );
      test.each(casesOf(verbs))("$viewer asks for $verb: $status", async (asked) =>
        expectStatus(await request(name, asked, isPublic, false), asked.status),
      );
      if (!isBulk) return;
      test.each(casesOf(["post", "patch", "delete"]))("$viewer asks for $verb of many: $status", async (asked) =>
        expectStatus(await request(name, asked, isPublic, true), asked.status),
      );
    });
  }
}

describe("beside the resources", async () => {
  const { body: document } = await app.call("GET", "/api/openapi.json");
  test("every operation that the document has is asked below", () => {
    expect(Object.keys(operations).sort()).toEqual(othersOf(document, resources).sort());
  });

  const asked = new Map<string, Promise<Asked>>();
  const cases = Object.entries(operations).flatMap(([route, operation]) =>
    (["read", "write"].includes(operation.rule) && !operation.isPrivate ? [false, true] : [false]).flatMap((isPublic) =>
      viewers.map((viewer) => ({
        route,
        viewer,
        isPublic,
        what: isPublic ? "public" : "private",
        status: expectedOfOperation(operation, viewer, isPublic),
      })),
    ),
  );
  test.each(cases)("$route, $what, of $viewer: $status", async ({ route, viewer, isPublic, status }) => {
    const [method = ""] = route.split(" ");
    const ask = () => (operations[route] as SampleOperation).ask(app, owner, isPublic);
    const isHarmless = status >= 300 || method === "GET";
    const { path, ...options } = await (isHarmless ? keep(asked, `${route} ${isPublic}`, ask) : ask());
    expectStatus(await app.call(method, path, { ...options, token: tokens[viewer] }), status);
  });
});

describe("a private object and a missing one answer alike, apart from the id", () => {
  const cases = [...owned, "sessions"].flatMap((name) =>
    (["guest", "stranger"] as const)
      .filter((viewer) => name !== "sessions" || viewer === "stranger")
      .flatMap((viewer) => (["get", "patch", "delete"] as const).map((verb) => ({ name, viewer, verb }))),
  );
  test.each(cases)("$viewer asks for $verb on $name", async ({ name, viewer, verb }) => {
    const { id, tokenOf } = await makeTarget(name, false);
    const missing = typeof id === "number" ? 2_000_000_000 : "no-such-session";
    const ask = (which: number | string) =>
      app.call(methods[verb], `/api/${name}/${which}`, {
        token: tokenOf(viewer),
        body: verb === "patch" ? { name: 7, unknown: true } : undefined,
        headers: { "If-Match": '"other"' },
      });
    const [hidden, absent] = await Promise.all([ask(id), ask(missing)]);
    expect(hidden.status).toBe(absent.status);
    expect(hidden.text.replaceAll(String(id), "ID")).toBe(absent.text.replaceAll(String(missing), "ID"));
    const names = (answer: typeof hidden) => [...answer.headers.keys()].sort();
    expect(names(hidden)).toEqual(names(absent));
  });

  test("sessions of others name no user", async () => {
    const { body } = await app.call("GET", `/api/sessions?user_id=${owner.id}`, { token: stranger.token });
    expect(body).toMatchObject({ total: 0, list: [] });
  });
});

test.each(owned)("%s are private unless their creator says otherwise", async (name) => {
  const { post } = sampleOf(name);
  const body = await post?.(app, { as: owner, owner });
  expect((await app.make(name, owner.token, body)).public).toBe(false);
});

describe("lists and totals show what the caller may see, and nothing else", () => {
  test.each(owned)("%s", async (name) => {
    const one = await app.signUp("one");
    const { make } = sampleOf(name);
    const shown = await make(app, { owner: one, admin }, true);
    const hidden = await make(app, { owner: one, admin }, false);
    const seenBy = async (token?: string) => {
      const { body } = await app.call("GET", `/api/${name}?user_id=${one.id}`, { token });
      expect(body.total).toBe(body.list.length);
      return body.list.map((row: Json) => row.id);
    };
    expect(await seenBy()).toEqual([shown]);
    expect(await seenBy(stranger.token)).toEqual([shown]);
    expect(await seenBy(one.token)).toEqual([shown, hidden]);
    expect(await seenBy(admin.token)).toEqual([shown, hidden]);
    const byId = await app.call("GET", `/api/${name}?id=${hidden}`, { token: stranger.token });
    expect(byId.body.total).toBe(0);
  });
});

test("the plain header Token is as good as Authorization", async () => {
  const answer = await app.call("GET", "/api/account", { headers: { Token: owner.token } });
  expect(answer.body.id).toBe(owner.id);
  expect((await app.call("GET", "/api/tags", { headers: { Token: "wrong" } })).status).toBe(401);
});

test.each(["Basic dXNlcjpwYXNz", "Bearer", "Bearer a b"])(
  "Authorization: %s is never a silent guest",
  async (value) => {
    expect((await app.call("GET", "/api/tags", { headers: { Authorization: value } })).status).toBe(401);
  },
);

test("an expired session is refused, and one in use is extended", async () => {
  const { token, sessionId } = await app.logIn(owner.id);
  await app.sql`update sessions set expires_at = now() + interval '1 day' where id = ${sessionId}`;
  expect((await app.call("GET", "/api/account", { token })).status).toBe(200);
  const [session] = await app.sql`
    select expires_at > now() + interval '29 days' as is_extended from sessions where id = ${sessionId}
  `;
  expect(session?.is_extended).toBe(true);
  await app.sql`update sessions set expires_at = now() where id = ${sessionId}`;
  expect((await app.call("GET", "/api/account", { token })).status).toBe(401);
});

test("a role acts on the next request", async () => {
  const promoted = await app.signUp("promoted");
  const ask = async () => (await app.call("PATCH", "/api/params/image", { token: promoted.token, body: {} })).status;
  expect(await ask()).toBe(403);
  await app.sql`update users set admin = true where id = ${promoted.id}`;
  expect(await ask()).toBe(200);
  await app.sql`update users set admin = false where id = ${promoted.id}`;
  expect(await ask()).toBe(403);
});

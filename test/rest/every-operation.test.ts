/** The conventions of the wire that hold for whatever the document describes: one loop over all its operations. */
import { beforeAll, describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import { type Answer, type CallOptions, type Json, startApp } from "../helpers/app.ts";
import { operations, othersOf, type SampleOperation } from "../helpers/operations.ts";
import { sampleOf } from "../helpers/samples.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const { body: document } = await app.call("GET", "/api/openapi.json");

const routes = Object.entries(document.paths as Record<string, Record<string, Json>>).flatMap(([path, methods]) =>
  Object.keys(methods).map((method) => ({
    method: method.toUpperCase(),
    path,
    route: `${method.toUpperCase()} ${path}`,
  })),
);
const isLogIn = ({ route }: { route: string }) => route === "POST /api/sessions";
/** Those that look at tokens. */
const judged = routes.filter(({ route }) => operations[route]?.rule !== "any");
/** With ids that nothing has. */
const missing = (path: string) => path.replace("{id}", "2000000000").replace(/\{\w+\}/g, "1");
const call = ({ method, path }: { method: string; path: string }, options?: CallOptions) =>
  app.call(method, missing(path), options);

function expectProblem(answer: Answer, status: number, code: string): void {
  expect([answer.status, answer.body.code, answer.text]).toEqual([status, code, answer.text]);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
}

describe("sign-up and log-in are the only writes without a token", () => {
  const writes = judged.filter(({ method }) => !["GET", "OPTIONS"].includes(method));
  const open = ["POST /api/users", "POST /api/sessions"];
  test.each(writes)("$route", async (operation) => {
    const answer = await call(operation);
    if (open.includes(operation.route)) expect(answer.status).toBe(415);
    else expectProblem(answer, 401, "token-required");
  });
});

describe("a wrong, expired or revoked token is 401 everywhere but at the log-in: never a silent guest", () => {
  const tokens: [string, string][] = [["wrong", "not-a-token"]];
  beforeAll(async () => {
    const [expired, revoked, deleted] = await Promise.all([1, 2, 3].map(() => app.logIn(owner.id)));
    await app.sql`update sessions set expires_at = now() where id = ${expired?.sessionId as string}`;
    await app.sql`update sessions set status = 'revoked', revoked_at = now() where id = ${revoked?.sessionId as string}`;
    await app.sql`delete from sessions where id = ${deleted?.sessionId as string}`;
    for (const [what, session] of Object.entries({ expired, revoked, deleted }))
      tokens.push([what, session?.token ?? ""]);
  });
  test.each(judged)("$route", async (operation) => {
    const answers = await Promise.all(
      tokens.flatMap(([what, token]) => [
        call(operation, { token }).then(({ status }) => [what, status]),
        call(operation, { headers: { Token: token } }).then(({ status }) => [what, status]),
      ]),
    );
    const status = isLogIn(operation) ? 415 : 401;
    expect(answers).toEqual(
      tokens.flatMap(([what]) => [
        [what, status],
        [what, status],
      ]),
    );
  });
});

describe("a foreign origin is 403, whatever the token", () => {
  test.each(routes.filter(({ path }) => path.startsWith("/api/")))("$route", async (operation) => {
    const headers = { Origin: "https://evil.example" };
    for (const token of [undefined, admin.token, "wrong"]) {
      expectProblem(await call(operation, { token, headers }), 403, "origin-forbidden");
    }
  });
});

describe("405 says in Allow exactly the methods that the document has", () => {
  test.each(Object.entries(document.paths))("%s", async (path, methods) => {
    const answer = await app.call("PUT", missing(path as string), { headers: { Origin: "https://evil.example" } });
    expectProblem(answer, 405, "method-not-allowed");
    const allowed = (answer.headers.get("allow") ?? "").split(", ").sort();
    const known = Object.keys(methods as object).map((method) => method.toUpperCase());
    expect(allowed).toEqual([...known, ...(known.includes("GET") ? ["HEAD"] : [])].sort());
  });
});

/** An operation asked rightly: of an object of the owner's, or of an admin where only those may. */
async function ask({ method, path, route }: (typeof routes)[number]): Promise<CallOptions & { path: string }> {
  const operation = operations[route];
  if (operation) {
    const token = operation.rule === "admins" ? admin.token : owner.token;
    return { token, ...(await operation.ask(app, owner, false)) };
  }
  const [, , name = ""] = path.split("/");
  const sample = sampleOf(name);
  const isOne = path.includes("{id}");
  const { token } = name === "servers" || (method !== "POST" && method !== "GET") ? admin : owner;
  if (method === "POST") return { path, token, body: await sample.post?.(app, { as: owner, owner }) };
  if (method === "GET" && !isOne) return { path, token };
  const id = await sample.make(app, { owner, admin }, false);
  const body = method === "PATCH" ? sample.patch : undefined;
  return { path: isOne ? `${path.replace("{id}", "")}${id}` : `${path}?id=${id}`, token, body };
}

describe("an unknown parameter is 400 by name, and changes nothing", () => {
  // A file's URL may be given parameters of a page's own, to load it anew.
  const without = [
    "GET /api/files/{key}",
    "GET /healthz",
    "GET /readyz",
    "GET /api/openapi.json",
    "OPTIONS /api/uploads",
  ];
  test.each(routes.filter(({ route }) => !without.includes(route)))("$route", async (operation) => {
    const { path, ...options } = await ask(operation);
    const answer = await app.call(operation.method, `${path}${path.includes("?") ? "&" : "?"}colour=red`, options);
    expectProblem(answer, 400, "invalid-query");
    const [fault] = answer.body.errors;
    expect(fault.parameter).toBe("colour");
    const isList = operation.method === "GET" && !operation.path.includes("{id}");
    if (isList && /page_size/.test(JSON.stringify(answerOf(operation)))) expect(fault.detail).toContain("there are: ");
  });

  function answerOf({ method, path }: (typeof routes)[number]): Json {
    return document.paths[path][method.toLowerCase()].responses[200];
  }
});

describe("HEAD answers like GET, without a body", () => {
  test.each(routes.filter(({ method }) => method === "GET"))("$path", async (operation) => {
    const { path, ...options } = await ask(operation);
    const [head, get] = [await app.call("HEAD", path, options), await app.call("GET", path, options)];
    expect([head.status, head.text]).toEqual([get.status, ""]);
    for (const header of ["content-type", "etag", "cache-control", "location"]) {
      expect(head.headers.get(header)).toBe(get.headers.get(header));
    }
  });
});

describe("under a hidden object and under a missing one answers are alike, apart from the id", () => {
  const below = Object.entries(operations).filter(([, { rule }]) => ["read", "write", "own"].includes(rule));
  test.each(below.map(([route]) => ({ route })))("$route", async ({ route }) => {
    const [method = "", template = ""] = route.split(" ");
    const { path, ...options } = await (operations[route] as SampleOperation).ask(app, owner, false);
    const place = template.split("/").findIndex((part) => part.startsWith("{"));
    const id = path.split("/")[place] as string;
    const other = /^\d+$/.test(id) ? "2000000000" : "missing.png";
    const [hidden, absent] = await Promise.all(
      [path, path.replace(id, other)].map((target) => app.call(method, target, { ...options, token: stranger.token })),
    );
    expect([hidden?.status, absent?.status]).toEqual([404, 404]);
    expect(hidden?.text.replaceAll(id, "ID")).toBe(absent?.text.replaceAll(other, "ID") as string);
    expect([...(hidden?.headers.keys() ?? [])]).toEqual([...(absent?.headers.keys() ?? [])]);
  });
});

describe("an Idempotency-Key makes a POST act once, wherever no secret is answered", () => {
  const secret = ["POST /api/sessions", "POST /api/account/webhook-secret"];
  test.each(routes.filter(({ method }) => method === "POST"))("$route", async (operation) => {
    const { path, headers, ...options } = await ask(operation);
    const post = () =>
      app.call("POST", path, {
        ...options,
        headers: { ...headers, "Idempotency-Key": `all ${operation.route}`.replaceAll(" ", "-") },
      });
    const first = await post();
    const described = JSON.stringify(document.paths[operation.path].post.parameters);
    if (secret.includes(operation.route)) {
      expectProblem(first, 400, "idempotency-key-refused");
      expect(described).not.toContain("Idempotency");
      return;
    }
    expect([first.status < 300, first.headers.get("idempotency-replayed")]).toEqual([true, null]);
    const again = await post();
    expect([again.status, again.headers.get("idempotency-replayed"), again.text]).toEqual([
      first.status,
      "true",
      first.text,
    ]);
    expect(described).toContain("Idempotency");
  });
});

test("every operation that is not of a resource is known here", () => {
  expect(othersOf(document, resources).filter((route) => !operations[route])).toEqual([]);
});

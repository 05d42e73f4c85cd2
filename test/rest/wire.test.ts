/** The conventions of the wire, the same for every resource: errors, the order of judging, bodies, ETags. */
import { describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import { type Answer, type CallOptions, startApp } from "../helpers/app.ts";
import { isOnDeno } from "../helpers/deno.ts";
import { anotherProcess } from "../helpers/process.ts";
import { sampleOf } from "../helpers/samples.ts";

const allowedOrigin = "https://studio.example";
const app = await startApp({ allowedOrigins: [allowedOrigin] });
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const dataset = await app.make("datasets", owner.token, { images: [], public: true });
const detail = `/api/datasets/${dataset.id}`;

/** A problem in the form of RFC 9457, that says nothing it should not. */
function expectProblem(answer: Answer, status: number, code?: string): void {
  expect([answer.status, answer.text]).toEqual([status, expect.stringContaining('"code"')]);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.headers.get("x-request-id")).toMatch(/^[\w-]{8,}$/);
  const { type, title, detail, code: slug } = answer.body;
  expect(answer.body.status).toBe(status);
  for (const text of [type, title, detail, slug]) expect(text).toBeString();
  expect(slug).toMatch(/^[a-z]+(-[a-z]+)*$/);
  expect(answer.text).not.toMatch(/select |insert |postgres|\.ts:|node_modules/i);
  expect(Object.keys(answer.body)).not.toContain("stack");
  expect(answer.text).not.toContain(answer.headers.get("x-request-id") as string);
  if (code) expect(slug).toBe(code);
}

describe("every answer carries a request's id of its own", () => {
  test.each(["/api/tags", "/api/tags/1", "/api/nothing", "/healthz", "/readyz", "/nothing"])("%s", async (path) => {
    const ids = await Promise.all([1, 2].map(async () => (await app.call("GET", path)).headers.get("x-request-id")));
    expect(ids[0]).toMatch(/^[\w-]{8,}$/);
    expect(ids[0]).not.toBe(ids[1]);
  });
});

test("while the database is down the answer is 503 with Retry-After, and the process still lives", async () => {
  const log = app.log.level;
  app.log.level = "silent"; // the failure is asked for
  const call = anotherProcess(app, { databaseUrl: "postgres://nobody:secret-password@127.0.0.1:1/nowhere" });
  for (const [method, path] of [
    ["GET", "/api/tags"],
    ["GET", "/api/tags/1"],
    ["POST", "/api/tags"],
    ["GET", "/readyz"],
  ] as const) {
    const answer = await call(method, path, { token: method === "POST" ? owner.token : undefined });
    expectProblem(answer, 503, "database-unavailable");
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(answer.text).not.toMatch(/nobody|secret-password|ECONN/);
  }
  expect((await call("GET", "/healthz")).status).toBe(200);
  app.log.level = log;
});

test("what goes wrong on our side is a bare 500: no SQL, no stack, no name of a table", async () => {
  const broken = await startApp();
  broken.log.level = "silent"; // the failure is asked for
  await broken.sql`alter table tags rename to mislaid`;
  for (const path of ["/api/tags", "/api/tags/1", "/api/tags?search=x"]) {
    const answer = await broken.call("GET", path);
    expectProblem(answer, 500, "internal");
    expect(answer.body.detail).toBe(answer.body.title);
    expect(answer.text).not.toMatch(/relation|tags|42P01|column/);
  }
});

describe("an unknown path is 404", () => {
  test.each(["/api/nothing", "/api/nothing/1", "/api", "/nothing", "/api/tags/1/2", "/api/tags/"])(
    "%s",
    async (path) => {
      for (const method of ["GET", "POST", "PATCH"]) expectProblem(await app.call(method, path), 404, "not-found");
    },
  );
});

describe("a method that a path does not take is 405 with Allow", () => {
  const taken = resources.flatMap(({ name, create, patch, remove }) => [
    { path: `/api/${name}`, allow: ["GET", "HEAD", ...(create ? ["POST"] : [])] },
    { path: `/api/${name}/1`, allow: ["GET", "HEAD", ...(patch ? ["PATCH"] : []), ...(remove ? ["DELETE"] : [])] },
  ]);
  const others = [
    { path: "/api/account", allow: ["GET", "HEAD", "PATCH"] },
    { path: "/api/files/some-key", allow: ["GET", "HEAD", "DELETE"] },
    { path: "/healthz", allow: ["GET", "HEAD"] },
  ];
  test.each([...taken, ...others])("$path takes $allow", async ({ path, allow }) => {
    const answer = await app.call("PUT", path, { token: "wrong", headers: { Origin: "https://evil.example" } });
    expectProblem(answer, 405, "method-not-allowed");
    const allowed = (answer.headers.get("allow") ?? "").split(", ");
    expect(allowed).toEqual(expect.arrayContaining(allow));
  });
});

describe("faults are judged in one order: of two, the earlier is answered", () => {
  const foreign = { Origin: "https://evil.example" };
  const huge = "x".repeat(9 * 1024 * 1024);
  const hidden = async () => `/api/datasets/${(await app.make("datasets", owner.token, { images: [] })).id}`;
  const cases: { first: string; second: string; status: number; ask: () => Promise<Answer> }[] = [
    {
      first: "a foreign origin",
      second: "a wrong token",
      status: 403,
      ask: () => app.call("PATCH", detail, { token: "wrong", body: {}, headers: foreign }),
    },
    {
      first: "a wrong token",
      second: "a wrong type",
      status: 401,
      ask: () => app.call("PATCH", detail, { token: "wrong", body: "x", headers: { "Content-Type": "text/plain" } }),
    },
    {
      first: "no token",
      second: "broken JSON",
      status: 401,
      ask: () => app.call("POST", "/api/datasets", { body: "{" }),
    },
    {
      first: "a wrong type",
      second: "broken JSON",
      status: 415,
      ask: () =>
        app.call("PATCH", detail, { token: stranger.token, body: "{", headers: { "Content-Type": "text/plain" } }),
    },
    {
      first: "too large",
      second: "nothing there",
      status: 413,
      ask: () => app.call("PATCH", "/api/datasets/2000000000", { token: owner.token, body: huge }),
    },
    {
      first: "broken JSON",
      second: "nothing there",
      status: 400,
      ask: () => app.call("PATCH", "/api/datasets/2000000000", { token: owner.token, body: "{" }),
    },
    {
      first: "broken JSON",
      second: "not an admin",
      status: 400,
      ask: () => app.call("POST", "/api/servers", { token: owner.token, body: "{" }),
    },
    {
      first: "an unknown parameter",
      second: "nothing there",
      status: 400,
      ask: () => app.call("PATCH", "/api/datasets/2000000000?x=1", { token: owner.token, body: {} }),
    },
    {
      first: "nothing there",
      second: "an invalid body",
      status: 404,
      ask: async () => app.call("PATCH", await hidden(), { token: stranger.token, body: { name: 1 } }),
    },
    {
      first: "not the owner",
      second: "an invalid body",
      status: 403,
      ask: () => app.call("PATCH", detail, { token: stranger.token, body: { name: 1 } }),
    },
    {
      first: "an admin's field",
      second: "an invalid one",
      status: 403,
      ask: () =>
        app.call("POST", "/api/tasks", { token: owner.token, body: { width: "wide", priority: 1, type: "infer" } }),
    },
    {
      first: "an invalid body",
      second: "another revision",
      status: 422,
      ask: () =>
        app.call("PATCH", detail, { token: owner.token, body: { name: 1 }, headers: { "If-Match": '"other"' } }),
    },
    {
      first: "another revision",
      second: "a conflict",
      status: 412,
      ask: async () => {
        const { sessionId } = await app.logIn(owner.id);
        await app.sql`update sessions set status = 'revoked', revoked_at = now() where id = ${sessionId}`;
        return app.call("PATCH", `/api/sessions/${sessionId}`, {
          token: owner.token,
          body: { status: "active" },
          headers: { "If-Match": '"other"' },
        });
      },
    },
  ];
  test.each(cases)("$first before $second: $status", async ({ status, ask }) => expectProblem(await ask(), status));
});

describe("HEAD answers like GET, without a body", () => {
  test.each(["/api/datasets", detail, "/api/datasets/2000000000", "/healthz"])("%s", async (path) => {
    const [head, get] = await Promise.all(["HEAD", "GET"].map((method) => app.call(method, path)));
    expect([head?.status, head?.text]).toEqual([get?.status as number, ""]);
    expect(head?.headers.get("etag")).toBe(get?.headers.get("etag") ?? null);
  });
});

describe("bodies", () => {
  const post = (body: unknown, headers?: CallOptions["headers"]) =>
    app.call("POST", "/api/datasets", { token: owner.token, body, headers });

  test.each([
    ["nothing", ""],
    ["half an object", '{"images": ['],
    ["a trailing comma", '{"images": [],}'],
    ["a NUL character", '{"images": [], "name": "a\\u0000b"}'],
    ["half a surrogate pair", '{"images": [], "name": "a\\ud800b"}'],
    ["half a surrogate pair in a name", '{"images": [], "captions": {"\\udc00": "x"}}'],
    ["bytes that are no UTF-8", new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d])],
  ])("%s is 400", async (_what, body) => expectProblem(await post(body), 400, "malformed-json"));

  test("a backslash before u0000 is text as any other", async () => {
    const answer = await post({ images: [], name: "a\\u0000 \\ud800 b" });
    expect([answer.status, answer.body.name]).toEqual([201, "a\\u0000 \\ud800 b"]);
  });

  test("a whole surrogate pair is text as any other", async () => {
    const answer = await post('{"images": [], "name": "\\ud83d\\ude00"}');
    expect([answer.status, answer.body.name]).toEqual([201, "😀"]);
  });

  test("a NUL character is found behind a million others", async () => {
    const long = JSON.stringify(Array.from({ length: 1_000_000 }, () => 1));
    expectProblem(await post(`{"images": ${long}, "name": "\\u0000"}`), 400, "malformed-json");
  });

  test.each([
    ["a number", "7"],
    ["a text", '"text"'],
    ["null", "null"],
  ])("%s is 422", async (_what, body) => expectProblem(await post(body), 422, "invalid"));

  test.each(["[", '{"a":'])("a hundred thousand nested %s are refused, not a crash", async (open) => {
    const close = open === "[" ? "]" : "}";
    for (const body of [
      `{"images": ${open.repeat(100_000)}1${close.repeat(100_000)}}`,
      `{"unknown": ${open.repeat(5_000)}1${close.repeat(5_000)}}`,
    ]) {
      const answer = await post(body);
      expect(answer.status).toBeOneOf([400, 422]);
      expectProblem(answer, answer.status);
    }
  });

  test("over 8 MB is 413", async () => {
    expectProblem(await post(`{"images": [], "info": "${"x".repeat(8 * 1024 * 1024)}"}`), 413, "too-large");
  });

  // No client of HTTP sends a length that is not the body's.
  test.skipIf(isOnDeno)("over 8 MB by Content-Length is 413 before the bytes come", async () => {
    expectProblem(await post("{}", { "Content-Length": String(8 * 1024 * 1024 + 1) }), 413, "too-large");
  });

  test.each(["text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", ""])(
    "POST of %p is 415",
    async (type) => expectProblem(await post("{}", { "Content-Type": type }), 415, "unsupported-media-type"),
  );

  test.each([
    "application/json",
    "application/merge-patch+json",
    "application/json; charset=utf-8",
    "Application/JSON",
  ])("PATCH of %p is a merge patch", async (type) => {
    const body = JSON.stringify({ info: type });
    const answer = await app.call("PATCH", detail, { token: owner.token, body, headers: { "Content-Type": type } });
    expect(answer.body).toEqual({ ...dataset, info: type, updated_at: answer.body.updated_at });
  });

  test("every fault is named at once, by where it is", async () => {
    const body = { name: "", info: 7, images: "none", unknown: 1, user_id: 3, public: "yes", "a/b~c": 1 };
    const answer = await post(body);
    expectProblem(answer, 422, "invalid");
    const pointers = answer.body.errors.map((error: { pointer: string }) => error.pointer);
    expect(pointers.sort()).toEqual(
      ["/name", "/info", "/images", "/unknown", "/user_id", "/public", "/a~1b~0c"].sort(),
    );
    for (const { detail } of answer.body.errors) expect(detail).toBeString();
  });
});

describe("ids out of range name nothing", () => {
  const integers = resources.filter((resource) => resource.id === "integer");
  const odd = ["0", "-1", "1.5", "abc", "01", "1e3", "99999999999999999999", "2147483648", "%20", "%00", "1%00"];
  test.each(integers.map(({ name }) => ({ name })))("$name", async ({ name }) => {
    for (const id of odd) {
      expectProblem(await app.call("GET", `/api/${name}/${id}`), 404, "not-found");
      expectProblem(await app.call("DELETE", `/api/${name}/${id}`, { token: admin.token }), 404, "not-found");
    }
  });
  test.each(["sessions", "params", "files"])("%s", async (name) => {
    for (const id of ["x", "%00", "a%00b", "%ff", "..", "%2e%2e%2fetc", "x".repeat(3000)]) {
      expectProblem(await app.call("GET", `/api/${name}/${id}`, { token: admin.token }), 404, "not-found");
    }
  });

  test.each([
    { path: "/api/models", body: { dataset_id: 99_999_999_999 }, pointer: "/dataset_id" },
    { path: "/api/images", body: { prompt: "x", model_id: 99_999_999_999 }, pointer: "/model_id" },
    { path: "/api/tasks", body: { type: "train", model_id: 99_999_999_999 }, pointer: "/model_id" },
    { path: "/api/tasks", body: { type: "infer", prompt: "x", model_id: 2_147_483_648 }, pointer: "/model_id" },
  ])("a reference out of range is 422 as a missing one: $path $pointer", async ({ path, body, pointer }) => {
    const answer = await app.call("POST", path, { token: owner.token, body });
    expectProblem(answer, 422, "invalid");
    expect(answer.body.errors[0].pointer).toBe(pointer);
  });
});

describe("a detail takes no parameters", () => {
  test.each(["GET", "PATCH", "DELETE"])("%s", async (method) => {
    const answer = await app.call(method, `${detail}?page=1&foo=2`, {
      token: owner.token,
      body: method === "PATCH" ? {} : undefined,
    });
    expectProblem(answer, 400, "invalid-query");
    expect(answer.body.errors.map((error: { parameter: string }) => error.parameter)).toEqual(["page", "foo"]);
  });
});

describe("ETags", () => {
  const etagOf = async (path: string, token?: string) =>
    (await app.call("GET", path, { token })).headers.get("etag") as string;

  test.each(resources.filter(({ name }) => name !== "servers" && name !== "tasks").map(({ name }) => ({ name })))(
    "$name: If-None-Match gives 304 until the object changes",
    async ({ name }) => {
      const sample = sampleOf(name);
      const path = `/api/${name}/${await sample.make(app, { owner, admin }, false)}`;
      const etag = await etagOf(path, admin.token);
      const ask = (value: string) => app.call("GET", path, { token: admin.token, headers: { "If-None-Match": value } });
      for (const value of [etag, `"other", ${etag}`, `W/${etag}`, "*"]) {
        const answer = await ask(value);
        expect([value, answer.status, answer.text]).toEqual([value, 304, ""]);
        expect(answer.headers.get("etag")).toBe(etag);
      }
      expect((await ask('"other"')).status).toBe(200);
      await app.call("PATCH", path, { token: admin.token, body: changeOf(name) });
      expect((await ask(etag)).status).toBe(200);
    },
  );

  test("live fields move without a version: such objects are never 304", async () => {
    const path = `/api/servers/${await sampleOf("servers").make(app, { owner, admin }, false)}`;
    const answer = await app.call("GET", path, { headers: { "If-None-Match": await etagOf(path) } });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("cache-control")).toContain("no-cache");
  });

  test("each view has its own", async () => {
    const path = `/api/users/${owner.id}`;
    const etags = await Promise.all([undefined, stranger.token, owner.token, admin.token].map((t) => etagOf(path, t)));
    expect(new Set(etags.slice(1)).size).toBe(3);
    expect(etags[0]).not.toBe(etags[2] as string);
  });

  test("If-Match lets the first of two writers through, and fails the second", async () => {
    const { id } = await app.make("datasets", owner.token, { images: [] });
    const path = `/api/datasets/${id}`;
    const etag = await etagOf(path, owner.token);
    const write = (name: string) =>
      app.call("PATCH", path, { token: owner.token, body: { name }, headers: { "If-Match": etag } });
    const [one, two] = await Promise.all([write("one"), write("two")]);
    expect([one.status, two.status].sort()).toEqual([200, 412]);
    expectProblem(one.status === 412 ? one : two, 412, "precondition-failed");
    const remove = await app.call("DELETE", path, { token: owner.token, headers: { "If-Match": etag } });
    expectProblem(remove, 412, "precondition-failed");
    const star = await app.call("DELETE", path, { token: owner.token, headers: { "If-Match": "*" } });
    expect(star.status).toBe(204);
  });

  function changeOf(name: string) {
    if (name === "params") return { value: { seed: { default: 5 } } };
    if (name === "sessions") return { status: "revoked" };
    return { name: `Changed ${name}` };
  }
});

describe("other origins", () => {
  const ask = (origin: string, method = "GET", headers: Record<string, string> = {}) =>
    app.call(method, "/api/tags", { headers: { Origin: origin, ...headers } });

  test("a foreign one is 403, null included", async () => {
    for (const origin of ["https://evil.example", "null", "https://studio.example.evil"]) {
      expectProblem(await ask(origin), 403, "origin-forbidden");
    }
  });

  test("an allowed one may read the answer and its headers", async () => {
    const answer = await ask(allowedOrigin);
    expect(answer.headers.get("access-control-allow-origin")).toBe(allowedOrigin);
    const exposed = answer.headers.get("access-control-expose-headers") ?? "";
    for (const name of ["ETag", "Location", "Retry-After", "Idempotency-Replayed", "X-Request-Id", "RateLimit"]) {
      expect(exposed).toContain(name);
    }
  });

  test("errors can be read by it too", async () => {
    const answer = await app.call("GET", "/api/tags/999999", { headers: { Origin: allowedOrigin } });
    expect([answer.status, answer.headers.get("access-control-allow-origin")]).toEqual([404, allowedOrigin]);
    const refused = await app.call("GET", "/api/tags", { token: "wrong", headers: { Origin: allowedOrigin } });
    expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([401, allowedOrigin]);
  });

  test("a preflight needs no token", async () => {
    const answer = await ask(allowedOrigin, "OPTIONS", {
      "Access-Control-Request-Method": "PATCH",
      "Access-Control-Request-Headers": "authorization, if-match",
    });
    expect([answer.status, answer.text]).toEqual([204, ""]);
    expect(answer.headers.get("access-control-allow-methods")).toContain("PATCH");
    expect(answer.headers.get("access-control-allow-headers")).toContain("if-match");
  });

  test("what depends on the caller is not cached for another", async () => {
    const answer = await app.call("GET", detail, { token: owner.token });
    expect(answer.headers.get("cache-control")).toMatch(/private|no-store/);
    expect(answer.headers.get("vary")).toContain("Authorization");
  });
});

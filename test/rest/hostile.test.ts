/** What a caller may send that a database could not take: refused, never a 500. */
import { describe, expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";

const app = await startApp();
const { token } = await app.signUp();

describe("a path that no key can be", () => {
  test.each(["users", "sessions", "models", "params", "files"])("/api/%s/%%00 is nothing here", async (name) => {
    for (const method of ["GET", "PATCH", "DELETE"]) {
      const answer = await app.call(method, `/api/${name}/%00`, {
        token,
        body: method === "PATCH" ? {} : undefined,
      });
      expect([404, 405]).toContain(answer.status);
    }
  });
});

test.each([
  { what: "a NUL", json: String.raw`{"images":[],"info":"a\u0000b"}`, status: 400 },
  { what: "a NUL in a name of a field", json: String.raw`{"images":[],"captions":{"\u0000":"a"}}`, status: 400 },
  { what: "half a surrogate pair", json: String.raw`{"images":[],"info":"\ud800"}`, status: 400 },
  {
    what: "half a pair in a caption",
    json: String.raw`{"images":[],"captions":{"https://example.com/a.png":"\udc00"}}`,
    status: 400,
  },
  { what: "a low half alone", json: String.raw`{"images":[],"info":"\ud83d-\ude00"}`, status: 400 },
  { what: "a high half twice", json: String.raw`{"images":[],"info":"\ud83d\ud83d\ude00"}`, status: 400 },
  { what: "a whole pair", json: String.raw`{"images":[],"info":"\ud83d\ude00"}`, status: 201 },
  { what: "a backslash before u0000", json: String.raw`{"images":[],"info":"a\\u0000b"}`, status: 201 },
])("a body with $what: $status", async ({ json, status }) => {
  expect((await app.call("POST", "/api/datasets", { token, body: json })).status).toBe(status);
});

test("a reference beyond what an id can be is one to nothing", async () => {
  const model = await app.call("POST", "/api/models", { token, body: { dataset_id: 2 ** 31 } });
  expect(model.status).toBe(422);
  const image = await app.call("POST", "/api/images", { token, body: { prompt: "a lake", model_id: 2 ** 53 - 1 } });
  expect(image.status).toBe(422);
});

test.each([
  { what: "120 characters beyond the basic plane", name: "🎨".repeat(120), status: 201 },
  { what: "121 characters", name: "🎨".repeat(121), status: 422 },
])("a name of $what: $status", async ({ name, status }) => {
  expect((await app.call("POST", "/api/datasets", { token, body: { images: [], name } })).status).toBe(status);
});

test.each([
  { what: "64 characters before the @", email: `${"a".repeat(64)}@example.com`, status: 201 },
  { what: "65 characters before the @", email: `${"a".repeat(65)}@example.com`, status: 422 },
  { what: "a label of 64 characters", email: `a@${"b".repeat(64)}.com`, status: 422 },
  { what: "a label of 63 characters", email: `a@${"b".repeat(63)}.com`, status: 201 },
])("an email address with $what: $status", async ({ email, status }) => {
  expect((await app.call("POST", "/api/users", { body: { email, password: "long enough" } })).status).toBe(status);
});

import { expect, test } from "bun:test";
import { createBucket } from "../../src/rest/rate-limit.ts";
import { startApp } from "../helpers/app.ts";
import { anotherProcess } from "../helpers/process.ts";

const app = await startApp({ allowedOrigins: ["https://studio.example"] });
const strict = () => anotherProcess(app, { rateLimits: { reads: 5, writes: 3 } });
const off = anotherProcess(app, { rateLimits: { reads: 0, writes: 0 } });

test("every answer says what is left, and what is over is refused", async () => {
  const call = strict();
  for (const left of [4, 3, 2, 1, 0]) {
    const { status, headers } = await call("GET", "/api/tags");
    expect(status).toBe(200);
    expect(headers.get("ratelimit-policy")).toBe('"reads";q=5;w=60');
    expect(headers.get("ratelimit")).toMatch(new RegExp(`^"reads";r=${left};t=\\d+$`));
  }
  const refused = await call("GET", "/api/tags");
  expect(refused.status).toBe(429);
  expect(refused.body.code).toBe("too-many-requests");
  expect(Number(refused.headers.get("retry-after"))).toBeWithin(1, 13);
  expect(refused.headers.get("ratelimit")).toMatch(/^"reads";r=0;t=\d+$/);
});

test("reads and writes, and callers, are counted apart; a user is one caller from anywhere", async () => {
  const call = strict();
  const [one, other] = [await app.signUp(), await app.signUp()];
  const more = await app.logIn(one.id);
  // A token counts for its user once it was seen to be good.
  await call("GET", "/api/account", { token: one.token, from: "203.0.113.1" });
  await call("GET", "/api/account", { token: more.token, from: "203.0.113.2" });
  await call("GET", "/api/account", { token: other.token, from: "203.0.113.3" });
  const read = async (token: string, from: string) => (await call("GET", "/api/account", { token, from })).status;
  for (const _ of [1, 2]) {
    expect(await read(one.token, "203.0.113.4")).toBe(200);
    expect(await read(more.token, "203.0.113.5")).toBe(200);
  }
  expect(await read(one.token, "203.0.113.6")).toBe(200);
  expect(await read(more.token, "203.0.113.7")).toBe(429);
  expect(await read(other.token, "203.0.113.7")).toBe(200);
  const patched = await call("PATCH", "/api/account", { token: one.token, body: { name: "x" } });
  expect(patched.status).toBe(200);
  expect(patched.headers.get("ratelimit-policy")).toBe('"writes";q=3;w=60');
});

test("the /64 of a guest counts, and tokens that are only guessed count for it", async () => {
  const call = strict();
  const ask = (i: number) => call("GET", "/api/tags", { token: `guess-${i}`, from: `2001:db8::${i + 1}` });
  const statuses = [];
  for (let i = 0; i < 6; i += 1) statuses.push((await ask(i)).status);
  expect(statuses).toEqual([401, 401, 401, 401, 401, 429]);
});

test("a revoked token no longer spends its user's requests", async () => {
  const call = strict();
  const user = await app.signUp();
  const stolen = await app.logIn(user.id);
  await call("GET", "/api/account", { token: stolen.token, from: "203.0.113.1" });
  await call("GET", "/api/account", { token: user.token, from: "203.0.113.2" });
  await app.sql`delete from sessions where id = ${stolen.sessionId}`;
  for (let i = 0; i < 10; i += 1) await call("GET", "/api/account", { token: stolen.token, from: "203.0.113.1" });
  expect((await call("GET", "/api/account", { token: user.token, from: "203.0.113.2" })).status).toBe(200);
});

test("0 is no limit and says nothing", async () => {
  const { status, headers } = await off("GET", "/api/tags");
  expect(status).toBe(200);
  expect(headers.has("ratelimit")).toBe(false);
});

test("a page of an allowed origin can read a refusal; health is never refused", async () => {
  const call = strict();
  const headers = { Origin: "https://studio.example" };
  for (let i = 0; i < 5; i += 1) await call("GET", "/api/tags", { headers });
  const refused = await call("GET", "/api/tags", { headers });
  expect(refused.status).toBe(429);
  expect(refused.headers.get("access-control-allow-origin")).toBe("https://studio.example");
  for (let i = 0; i < 10; i += 1) expect((await call("GET", "/healthz")).status).toBe(200);
});

test("a bucket fills as time goes, and never beyond its limit", () => {
  const bucket = createBucket(60);
  const take = (now: number) => bucket.take("me", now);
  for (let left = 59; left >= 0; left -= 1) expect(take(0)).toMatchObject({ remaining: left, waitSeconds: 0 });
  expect(take(0)).toEqual({ remaining: 0, fullSeconds: 60, waitSeconds: 1 });
  expect(take(999).waitSeconds).toBe(1);
  expect(take(1_000)).toMatchObject({ remaining: 0, waitSeconds: 0 });
  expect(take(1_000).waitSeconds).toBe(1);
  expect(take(31_000)).toMatchObject({ remaining: 29, waitSeconds: 0 });
  expect(take(10_000_000).remaining).toBe(59);
});

test("a bucket remembers so many callers and no more", () => {
  const bucket = createBucket(2);
  bucket.take("patient", 0);
  bucket.take("patient", 0);
  for (let i = 0; i < 49_999; i += 1) bucket.take(`other ${i}`, 0);
  expect(bucket.take("patient", 0).waitSeconds).toBeGreaterThan(0);
  for (let i = 0; i < 50_001; i += 1) bucket.take(`more ${i}`, 0);
  expect(bucket.take("patient", 0).waitSeconds).toBe(0);
});

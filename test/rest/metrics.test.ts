/** `/metrics`: who may read it, and what it counts. */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { anotherProcess } from "../helpers/process.ts";

const metricsToken = "a-token-for-the-metrics";
const app = await startApp({ metricsToken });
const call = anotherProcess(app, { metricsToken });
const ask = (from: string, options: { token?: string; headers?: Record<string, string> } = {}) =>
  call("GET", "/metrics", { from, ...options });

test.each([
  { who: "the machine itself", from: "127.0.0.1", status: 200 },
  { who: "the machine itself by IPv6", from: "::1", status: 200 },
  { who: "the machine itself, mapped", from: "::ffff:127.0.0.1", status: 200 },
  { who: "a stranger", from: "192.0.2.1", status: 401 },
  { who: "a neighbour", from: "10.0.0.1", status: 401 },
  { who: "nobody known", from: "", status: 401 },
  { who: "a holder of the token", from: "192.0.2.1", token: metricsToken, status: 200 },
  { who: "a holder of another token", from: "192.0.2.1", token: "another-token", status: 401 },
  // A proxy on the machine speaks for the whole world.
  { who: "a stranger behind a proxy", from: "127.0.0.1", headers: { "X-Forwarded-For": "192.0.2.9" }, status: 401 },
  { who: "one who says to be local", from: "127.0.0.1", headers: { "X-Forwarded-For": "127.0.0.1" }, status: 401 },
])("$who: $status", async ({ from, token, headers, status }) => {
  const answer = await ask(from, { token, headers });
  expect(answer.status).toBe(status);
  expect(answer.text.includes("process_cpu_seconds_total")).toBe(status === 200);
});

test("without METRICS_TOKEN no token is right, a session's neither", async () => {
  const admin = await app.admin();
  const closed = anotherProcess(app, { metricsToken: null });
  for (const token of ["", "null", "undefined", admin.token]) {
    expect((await closed("GET", "/metrics", { token: token || undefined })).status).toBe(401);
  }
});

test("requests are counted by route; what callers invent is no label", async () => {
  const { token } = await app.signUp();
  const tag = await app.make("tags", token, { name: "a counted tag" });
  await app.call("GET", `/api/tags/${tag.id}`);
  await app.call("GET", `/api/tags/${tag.id}`);
  await app.call("GET", "/api/tags/999999");
  await app.call("GET", "/api/an-invention");
  await app.call("PUT", "/api/tags");
  const { text } = await app.call("GET", "/metrics", { token: metricsToken });
  const countOf = (labels: string) =>
    text.match(new RegExp(`^atelier_http_request_seconds_count{${labels}} (\\d+)$`, "m"))?.[1];
  expect(countOf('method="GET",route="/api/tags/:id",status="200"')).toBe("2");
  expect(countOf('method="GET",route="/api/tags/:id",status="404"')).toBe("1");
  expect(countOf('method="POST",route="/api/tags",status="201"')).toBe("1");
  expect(countOf('method="GET",route="none",status="404"')).toBe("1");
  expect(countOf('method="other",route="none",status="405"')).toBe("1");
  expect(text).not.toMatch(/an-invention|"PUT"|tags.9/);
  expect(text).not.toMatch(/^nodejs_/m);
});

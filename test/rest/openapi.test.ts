/** The OpenAPI document tells the truth: it is valid, complete, and what the app really answers fits it. */
import { describe, expect, test } from "bun:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import { createApp } from "../../src/app.ts";
import { createCatalogueSource } from "../../src/params/catalogue.ts";
import { closeCodes } from "../../src/relay/follower.ts";
import { protocol } from "../../src/relay/socket.ts";
import { resources } from "../../src/resources/index.ts";
import { createLinks } from "../../src/rest/links.ts";
import { promises } from "../../src/rest/openapi/promises.ts";
import { socketCloseCodes, socketProtocol } from "../../src/rest/openapi/socket.ts";
import type { Operation } from "../../src/rest/openapi/types.ts";
import { createDocument } from "../../src/rest/openapi.ts";
import { describeRoutes } from "../../src/routes/described.ts";
import { type Account, type CallOptions, startApp } from "../helpers/app.ts";
import { createJudge, servedRoutes } from "../helpers/openapi.ts";
import { operations as samples } from "../helpers/operations.ts";
import { sampleOf } from "../helpers/samples.ts";

const app = await startApp();
const { body: document } = await app.call("GET", "/api/openapi.json");
const judge = createJudge(document);
const operations: [string, Operation][] = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods as Record<string, Operation>).map(([method, operation]): [string, Operation] => [
    `${method.toUpperCase()} ${path}`,
    operation,
  ]),
);

test("a public validator finds the document valid OpenAPI 3.1", async () => {
  const result = await new Validator().validate(structuredClone(document));
  expect(result).toEqual({ valid: true });
  expect(document.openapi).toStartWith("3.1");
});

test("every route that the app serves is described, and nothing else", () => {
  const pages = /^GET \/(docs|metrics)\b/;
  const { config, sql, secrets, log } = app;
  const { routes } = createApp({
    config,
    sql,
    secrets,
    log,
    storage: app.storage,
    links: createLinks(config.publicUrl, secrets),
    catalogue: createCatalogueSource(sql),
    listModels: async () => [],
    temporaryDirectory: app.directory,
  });
  const served = servedRoutes(routes).filter((route) => !pages.test(route));
  expect(operations.map(([route]) => route).sort()).toEqual(served.sort());
});

test("operationIds are unique and stay: clients are generated from them", () => {
  const ids = operations.map(([, { operationId }]) => operationId);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).toEqual(expect.arrayContaining(["listModels", "createImage", "getTask", "patchServer", "deleteTag"]));
});

test.each(operations)("%s: its examples fit their schemas", (route, operation) => {
  expect(judge.examples(operation)).toEqual([]);
  expect(operation.responses, route).toBeDefined();
});

test("the socket's protocol and close codes are the relay's", () => {
  expect(socketProtocol).toBe(protocol);
  expect(Object.keys(socketCloseCodes).map(Number)).toEqual(expect.arrayContaining(Object.values(closeCodes)));
});

test("servers are where PUBLIC_URL's path says", () => {
  const sources = { resources, others: describeRoutes() };
  expect(createDocument({ ...sources, publicUrl: "http://x/base/" }).servers).toEqual([{ url: "/base" }]);
  expect(document.servers).toEqual([{ url: "/" }]);
});

test("what is promised beside the definitions is what the app does", async () => {
  const { token } = await app.signUp();
  const headers = { "Idempotency-Key": "one" };
  const body = { name: "a tag of promises" };
  await app.call("POST", "/api/tags", { token, body, headers });
  const again = await app.call("POST", "/api/tags", { token, body, headers });
  expect({ idempotency: again.headers.has("Idempotency-Replayed") }).toEqual({ idempotency: promises.idempotency });
  expect(again.headers.has("RateLimit")).toBe(promises.rateLimits);
});

/** Answers of the real app, judged by the document: status, headers, body. */
describe.each(resources.map(({ name }) => name))("%s", (name) => {
  const sample = sampleOf(name);

  test.each(["guest", "owner", "stranger", "admin"])("what a(n) %s is answered fits the document", async (who) => {
    const accounts: Record<string, Account> = {
      owner: await app.signUp(),
      stranger: await app.signUp(),
      admin: await app.admin(),
    };
    const { owner, admin } = accounts as { owner: Account; admin: Account };
    const id = await sample.make(app, { owner, admin }, true);
    const hidden = await sample.make(app, { owner, admin }, false);
    const token = accounts[who]?.token;
    const calls: [string, string, unknown?][] = [
      ["GET", `/api/${name}`],
      ["GET", `/api/${name}?pageSize=0&colour=red`],
      ["GET", `/api/${name}?sort=${Object.keys(resources.find((r) => r.name === name)?.sorts ?? {})[0]}`],
      ["GET", `/api/${name}/${id}`],
      ["GET", `/api/${name}/${hidden}`],
      ["GET", `/api/${name}/0`],
      ["GET", `/api/${name}/${id}?a=1`],
      ["PATCH", `/api/${name}/${id}`, sample.patch],
      ["PATCH", `/api/${name}/${id}`, { colour: "red" }],
      ["PATCH", `/api/${name}/${id}`, "{"],
      ["POST", `/api/${name}`, {}],
      ["POST", `/api/${name}`, sample.post ? [await sample.post(app, { as: admin, owner })] : []],
      ...(sample.post
        ? [["POST", `/api/${name}`, await sample.post(app, { as: admin, owner })] as [string, string, unknown]]
        : []),
      ["PATCH", `/api/${name}?id=${id}`, sample.patch],
      ["PATCH", `/api/${name}?id=${id},0`, sample.patch],
      ["DELETE", `/api/${name}?id=x`],
      ["DELETE", `/api/${name}/${id}`],
      ["DELETE", `/api/${name}?id=${hidden}`],
    ];
    for (const [method, path, body] of calls) {
      if (!judge.knows(method, path)) continue;
      const answer = await app.call(method, path, { token, body });
      expect(judge.answer(method, path, answer), `${method} ${path} -> ${answer.status} ${answer.text}`).toEqual([]);
      expect(answer.status).toBeLessThan(500);
    }
  });
});

describe("beside the resources, what each viewer is answered fits the document", async () => {
  const [owner, stranger, admin] = await Promise.all([app.signUp(), app.signUp(), app.admin()]);
  const asked = Object.entries(samples).map(([route, operation]) => ({ route, operation }));
  test.each(asked)("$route", async ({ route, operation }) => {
    const [method = ""] = route.split(" ");
    const statuses = new Set<number>();
    const ask = async (path: string, options: CallOptions) => {
      const answer = await app.call(method, path, options);
      statuses.add(answer.status);
      expect(judge.answer(method, path, answer), `${route} -> ${answer.status} ${answer.text.slice(0, 500)}`).toEqual(
        [],
      );
    };
    for (const token of [undefined, stranger.token, owner.token, admin.token, "wrong"]) {
      const { path, ...options } = await operation.ask(app, owner, false);
      await ask(path, { ...options, token });
    }
    const { path, ...options } = await operation.ask(app, owner, !operation.isPrivate);
    await ask(path, { ...options, token: stranger.token });
    const token = operation.rule === "admins" ? admin.token : owner.token;
    await ask(`${path}?colour=red`, { ...options, token });
    await ask(path, { ...options, token, headers: { ...options.headers, Origin: "https://evil.example" } });
    if (method === "POST") await ask(path, { ...options, token, body: "no body of it" });
    expect(statuses.has(operation.status)).toBe(true);
  });
});

test("files and the account are answered as described", async () => {
  const { token } = await app.signUp();
  const file = await app.upload(token);
  const model = await app.makeModel(token);
  const path = new URL(file.url).pathname;
  const calls: [string, string, Record<string, string>?, unknown?][] = [
    ["GET", "/api/files"],
    ["GET", "/api/files?page=0"],
    ["GET", path],
    ["GET", path, { Range: "bytes=0-9" }],
    ["GET", path, { Range: "bytes=99999999-" }],
    ["GET", path, { "If-None-Match": "*" }],
    ["GET", "/api/files/missing.png"],
    ["POST", "/api/files", { "Content-Type": "image/png" }, "no picture"],
    ["GET", `/api/models/${model.id}/file`],
    ["GET", "/api/models/0/file"],
    ["DELETE", path],
    ["DELETE", path],
    ["GET", "/api/account"],
    ["PATCH", "/api/account", {}, { name: "New name" }],
    ["PATCH", "/api/account", {}, { email: "x@example.com" }],
    ["GET", "/healthz"],
    ["GET", "/readyz"],
    ["GET", "/api/openapi.json"],
  ];
  for (const [method, target, headers, body] of calls) {
    const answer = await app.call(method, target, { token, headers, body });
    expect(judge.answer(method, target, answer), `${method} ${target} -> ${answer.status}`).toEqual([]);
  }
  const created = await app.call("POST", "/api/files", {
    token,
    body: new Uint8Array(await (await app.fetch(new Request(file.url))).arrayBuffer()),
    headers: { "Content-Type": "image/png" },
  });
  expect(judge.answer("POST", "/api/files", created)).toEqual([]);
});

test("webhooks are answered as described", async () => {
  const { token } = await app.signUp();
  const { token: stranger } = await app.signUp();
  const fields = { type: "infer", prompt: "x", public: true, webhook: "https://example.com/" };
  const { id } = await app.make("tasks", token, fields);
  await app.call("PATCH", `/api/tasks/${id}`, { token, body: { status: "canceled" } });
  const calls: [string, string, string?, unknown?][] = [
    ["POST", "/api/account/webhook-secret", token],
    ["POST", "/api/account/webhook-secret", token, { secret: "mine" }],
    ["POST", "/api/account/webhook-secret"],
    ["GET", `/api/tasks/${id}/deliveries`, token],
    ["GET", `/api/tasks/${id}/deliveries?page=0`, token],
    ["GET", `/api/tasks/${id}/deliveries`, stranger],
    ["GET", "/api/tasks/0/deliveries", token],
    ["POST", `/api/tasks/${id}/deliveries/1/redeliver`, token],
    ["POST", `/api/tasks/${id}/deliveries/2/redeliver`, token],
    ["POST", `/api/tasks/${id}/deliveries/1/redeliver`, stranger],
  ];
  expect(await statusesOf(calls)).toEqual([201, 422, 401, 200, 400, 403, 404, 202, 404, 403]);
});

test("the pool is answered as described", async () => {
  const { token: admin } = await app.admin();
  const { token } = await app.signUp();
  const { id } = await app.make("tasks", token, { type: "infer", prompt: "x" });
  const calls: [string, string, string?, unknown?][] = [
    ["GET", `/api/tasks/${id}/why`, token],
    ["GET", `/api/tasks/${id}/why`],
    ["GET", `/api/tasks/${id}/why?x=1`, token],
    ["POST", "/api/pool/pause", admin],
    ["POST", "/api/pool/pause", admin],
    ["POST", "/api/pool/pause", token],
    ["POST", "/api/pool/resume"],
    ["POST", "/api/pool/resume", admin, { now: true }],
    ["POST", "/api/pool/resume", admin],
    ["GET", "/api/stats", admin],
    ["GET", "/api/stats", token],
    ["GET", "/api/stats"],
    ["GET", "/api/stats?since=1h", admin],
  ];
  expect(await statusesOf(calls)).toEqual([200, 404, 400, 204, 204, 403, 401, 422, 204, 200, 403, 401, 400]);
});

/** Calls one after the other; each answer is as described. */
async function statusesOf(calls: [string, string, string?, unknown?][]): Promise<number[]> {
  const statuses = [];
  for (const [method, target, token, body] of calls) {
    const answer = await app.call(method, target, { token, body });
    expect(judge.answer(method, target, answer), `${method} ${target} -> ${answer.status} ${answer.text}`).toEqual([]);
    statuses.push(answer.status);
  }
  return statuses;
}

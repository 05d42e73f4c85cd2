/** A task's terms: deadlines and webhooks, who sets them and who sees them. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();
const dataset = await app.make("datasets", owner.token, { images: [] });

const post = (body: Json, token = owner.token) => app.call("POST", "/api/tasks", { token, body });
const patch = (id: number, body: Json, token = owner.token) => app.call("PATCH", `/api/tasks/${id}`, { token, body });
const pointers = (answer: { body: Json }) => answer.body.errors?.map((error: Json) => error.pointer);

const terms = {
  start_before: "2036-01-01T08:00:00.000Z",
  max_seconds: 600,
  webhook: "https://example.com/hook",
  webhook_events: ["running", "success"],
};
const none = {
  start_before: null,
  max_seconds: null,
  webhook: null,
  webhook_events: ["success", "error", "canceled"],
};

test.each<{ what: string; body: Json }>([
  { what: "pictures", body: { type: "infer", prompt: "x" } },
  { what: "a new model", body: { type: "train", dataset_id: dataset.id } },
])("$what: terms are kept, and there are none by default", async ({ body }) => {
  expect((await post({ ...body, ...terms })).body).toMatchObject(terms);
  expect((await post(body)).body).toMatchObject(none);
});

test("training again has terms and a name of its own", async () => {
  const model = await app.makeModel(owner.token);
  await app.sql`update models set dataset_id = ${dataset.id} where id = ${model.id}`;
  const { status, body } = await post({ type: "train", model_id: model.id, name: "Again", ...terms });
  expect(status).toBe(201);
  expect(body).toMatchObject({ name: "Again", ...terms });
});

test("PATCH changes terms and takes them away, and moves the revision", async () => {
  const { body, headers } = await post({ type: "infer", prompt: "x" });
  const changed = await patch(body.id, { ...terms, start_before: "2036-01-01T16:00:00+08:00" });
  expect(changed.body).toMatchObject(terms);
  const stale = await app.call("PATCH", `/api/tasks/${body.id}`, {
    token: owner.token,
    body: { max_seconds: 5 },
    headers: { "If-Match": headers.get("etag") ?? "" },
  });
  expect(stale.status).toBe(412);
  const gone = await patch(body.id, { start_before: null, max_seconds: null, webhook: null });
  expect(gone.body).toMatchObject({ ...none, webhook_events: terms.webhook_events });
});

test("a webhook is its owner's business: others see the task without it", async () => {
  const { body } = await post({ type: "infer", prompt: "x", public: true, ...terms });
  const seenBy = async (token?: string) => (await app.call("GET", `/api/tasks/${body.id}`, { token })).body;
  for (const token of [undefined, stranger.token]) {
    expect(await seenBy(token)).toMatchObject({ webhook: null, webhook_events: null, max_seconds: 600 });
  }
  for (const token of [owner.token, admin.token]) expect(await seenBy(token)).toMatchObject(terms);
});

describe("what is refused", () => {
  test.each<{ what: string; body: Json; faulty: string }>([
    { what: "a deadline that has passed", body: { start_before: "2020-01-01T00:00:00Z" }, faulty: "/start_before" },
    { what: "no time", body: { start_before: "tomorrow" }, faulty: "/start_before" },
    { what: "no time at all", body: { max_seconds: 0 }, faulty: "/max_seconds" },
    { what: "over a week", body: { max_seconds: 604_801 }, faulty: "/max_seconds" },
    { what: "no URL", body: { webhook: "hook" }, faulty: "/webhook" },
    { what: "another scheme", body: { webhook: "ftp://example.com/" }, faulty: "/webhook" },
    { what: "credentials", body: { webhook: "https://me:secret@example.com/" }, faulty: "/webhook" },
    { what: "a loopback", body: { webhook: "http://127.0.0.1/" }, faulty: "/webhook" },
    { what: "a loopback in disguise", body: { webhook: "http://0x7f000001/" }, faulty: "/webhook" },
    { what: "localhost", body: { webhook: "http://localhost:8080/" }, faulty: "/webhook" },
    { what: "a private address", body: { webhook: "https://10.1.2.3/" }, faulty: "/webhook" },
    { what: "the metadata service", body: { webhook: "http://169.254.169.254/" }, faulty: "/webhook" },
    { what: "IPv6's loopback", body: { webhook: "http://[::1]/" }, faulty: "/webhook" },
    { what: "a port that is no web server's", body: { webhook: "http://example.com:25/" }, faulty: "/webhook" },
    { what: "an endless URL", body: { webhook: `https://example.com/${"x".repeat(2000)}` }, faulty: "/webhook" },
    { what: "no events", body: { webhook_events: [] }, faulty: "/webhook_events" },
    { what: "an unknown event", body: { webhook_events: ["initial"] }, faulty: "/webhook_events/0" },
  ])("$what: 422 at $faulty, in POST and PATCH", async ({ body, faulty }) => {
    const made = await post({ type: "infer", prompt: "x", ...body });
    expect([made.status, pointers(made)]).toEqual([422, [faulty]]);
    const { id } = (await post({ type: "infer", prompt: "x" })).body;
    const changed = await patch(id, body);
    expect([changed.status, pointers(changed)]).toEqual([422, [faulty]]);
  });
});

test("admins set a limit of time for those who name none", async () => {
  const change = (value: Json) =>
    app.call("PATCH", "/api/params/task", { token: admin.token, body: { value: { max_seconds: value } } });
  await change({ default: 3600, maximum: 7200 });
  expect((await post({ type: "infer", prompt: "x" })).body.max_seconds).toBe(3600);
  expect((await app.make("images", owner.token, { prompt: "x" })).task_id).toBeInteger();
  expect((await post({ type: "infer", prompt: "x", max_seconds: 7201 })).status).toBe(422);
  await change({ default: null, maximum: null });
});

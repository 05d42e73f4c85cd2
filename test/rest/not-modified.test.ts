/** If-None-Match is compared weakly: caches and proxies rewrite ETags. */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";

const app = await startApp();

test("an answer that shows what moves without a version is given in full, and not once nothing moves any more", async () => {
  const { token } = await app.signUp();
  const { id, task_id } = await app.make("images", token, { prompt: "a lake" });
  const ask = async (etag: string) =>
    app.call("GET", `/api/images/${id}`, { token, headers: { "If-None-Match": etag } });
  await app.sql`update tasks set status = 'running' where id = ${task_id}`;
  await app.sql`update images set status = 'running' where id = ${id}`;
  const { headers } = await ask("");
  const etag = headers.get("etag") as string;
  expect((await ask(etag)).status).toBe(304);
  await app.sql`insert into previews (task_id, image_id, bytes) values (${task_id}, ${id}, 'x')`;
  const moving = await ask(etag);
  expect([moving.status, moving.headers.get("etag")]).toEqual([200, etag]);
  await app.sql`delete from previews`;
  expect((await ask(etag)).status).toBe(304);
});

test("an answer with signed URLs or a place in the queue is given in full and is no-cache: both move without a version", async () => {
  const { token } = await app.signUp();
  const { url } = await app.upload(token);
  const dataset = await app.make("datasets", token, { images: [url] });
  const task = await app.make("tasks", token, { type: "infer", prompt: "a lake" });
  await app.sql`update tasks set status = 'ready' where id = ${task.id}`;
  await app.sql`update tasks set status = 'waiting', waiting_at = now() where id = ${task.id}`;
  for (const path of [`/api/datasets/${dataset.id}`, `/api/tasks/${task.id}`]) {
    const first = await app.call("GET", path, { token });
    expect(first.headers.get("cache-control")).toContain("no-cache");
    const headers = { "If-None-Match": first.headers.get("etag") as string };
    expect([path, (await app.call("GET", path, { token, headers })).status]).toEqual([path, 200]);
  }
});

test("a task that waits for nothing and has ended is not given again, and one that runs is: samples come without a version", async () => {
  const { token } = await app.signUp();
  const { id } = await app.make("tasks", token, { type: "infer", prompt: "a lake" });
  for (const [state, status] of [
    ["ready", 304],
    ["running", 200],
    ["success", 304],
  ]) {
    await app.sql`
      update tasks set status = ${state as string}, finished_at = case when ${state === "success"} then now() end
      where id = ${id}
    `;
    const { headers } = await app.call("GET", `/api/tasks/${id}`, { token });
    const again = { "If-None-Match": headers.get("etag") as string };
    expect([state, (await app.call("GET", `/api/tasks/${id}`, { token, headers: again })).status]).toEqual([
      state,
      status,
    ]);
  }
});

test.each([
  { header: (etag: string) => etag, status: 304 },
  { header: (etag: string) => `W/${etag}`, status: 304 },
  { header: (etag: string) => `"other", ${etag}`, status: 304 },
  { header: () => "*", status: 304 },
  { header: () => '"other"', status: 200 },
  { header: () => "", status: 200 },
])("If-None-Match by $header answers $status", async ({ header, status }) => {
  const { token } = await app.signUp();
  const { id } = await app.make("datasets", token, { images: [] });
  for (const path of [`/api/datasets/${id}`, "/api/openapi.json"]) {
    const first = await app.call("GET", path, { token });
    const headers = { "If-None-Match": header(first.headers.get("etag") as string) };
    expect((await app.call("GET", path, { token, headers })).status).toBe(status);
  }
});

import { expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const user = await app.signUp();
const admin = await app.admin();

async function make(): Promise<{ path: string; etag: string }> {
  const answer = await app.call("POST", "/api/datasets", { token: user.token, body: { images: [] } });
  return { path: answer.headers.get("location") as string, etag: answer.headers.get("etag") as string };
}
const patch = (path: string, ifMatch: string, token = user.token, body: Json = { info: "changed" }) =>
  app.call("PATCH", path, { token, body, headers: { "If-Match": ifMatch } });

const other = '"datasets-999-1-1-o"';

test.each([
  { what: "the tag itself", header: (tag: string) => tag, status: 200 },
  { what: "*", header: () => "*", status: 200 },
  { what: "several, one of them right", header: (tag: string) => `${other}, ${tag}`, status: 200 },
  { what: "several without spaces", header: (tag: string) => `${other},${tag},"x"`, status: 200 },
  { what: "several, all wrong", header: () => `${other}, "x"`, status: 412 },
  { what: "the weak form", header: (tag: string) => `W/${tag}`, status: 412 },
  { what: "the tag without its quotes", header: (tag: string) => tag.replaceAll('"', ""), status: 412 },
  { what: "the tag with something behind it", header: (tag: string) => `${tag.slice(0, -1)}x"`, status: 412 },
  { what: "a part of the tag", header: (tag: string) => `${tag.slice(0, -3)}"`, status: 412 },
  { what: "an empty header", header: () => "", status: 412 },
])("If-Match with $what: $status", async ({ header, status }) => {
  const { path, etag } = await make();
  expect((await patch(path, header(etag))).status).toBe(status);
  const { path: doomed, etag: tag } = await make();
  const removed = await app.call("DELETE", doomed, { token: user.token, headers: { "If-Match": header(tag) } });
  expect(removed.status).toBe(status === 200 ? 204 : 412);
});

test("another's view of the same revision is as good", async () => {
  const { path, etag } = await make();
  const seen = await app.call("GET", path, { token: admin.token });
  expect(seen.headers.get("etag")).not.toBe(etag);
  expect((await patch(path, seen.headers.get("etag") as string)).status).toBe(200);
});

test("what is refused changes nothing, and the answer's own tag is the next one to use", async () => {
  const { path, etag } = await make();
  const first = await patch(path, etag);
  expect((await patch(path, etag, user.token, { info: "lost" })).status).toBe(412);
  expect((await app.call("GET", path, { token: user.token })).body.info).toBe("changed");
  expect((await patch(path, first.headers.get("etag") as string)).status).toBe(200);
});

test("of twenty who write at once with one tag, one gets through", async () => {
  const { path, etag } = await make();
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, i) => patch(path, etag, user.token, { info: `writer ${i}` })),
  );
  expect(answers.map((answer) => answer.status).sort()).toEqual([200, ...Array(19).fill(412)]);
});

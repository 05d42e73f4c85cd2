/** If-None-Match is compared weakly: caches and proxies rewrite ETags. */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";

const app = await startApp();

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

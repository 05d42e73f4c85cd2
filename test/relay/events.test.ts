/** The same frames as server-sent events. */
import { expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";
import { listen } from "../helpers/socket.ts";

const allowedOrigin = "https://studio.example";
const app = await startApp({ allowedOrigins: [allowedOrigin] });
const server = await listen(app);
const owner = await app.signUp("owner");

interface Event {
  id: string | null;
  type: string | null;
  data: Json;
}

/** Opens a stream; `next` reads to the next event, null at the end. */
async function open(path: string, headers: Record<string, string> = {}) {
  const abort = new AbortController();
  const response = await fetch(`http://127.0.0.1:${server.port}/api/${path}`, {
    headers: { Accept: "text/event-stream", ...headers },
    signal: abort.signal,
  });
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let text = "";
  return {
    response,
    abort,
    async next(): Promise<Event | null> {
      for (;;) {
        const end = text.indexOf("\n\n");
        if (end >= 0) {
          const lines = text.slice(0, end).split("\n");
          text = text.slice(end + 2);
          const field = (name: string) =>
            lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? null;
          const data = field("data");
          if (data !== null) return { id: field("id"), type: field("event"), data: JSON.parse(data) };
          continue;
        }
        const { done, value } = await reader.read();
        if (done) return null;
        text += decoder.decode(value, { stream: true });
      }
    },
  };
}
const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
const patch = (id: number, body: object) => app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body });

test("snapshot, update and delete, with the version as the id; then the stream ends", async () => {
  const dataset = await app.make("datasets", owner.token, { images: [] });
  const stream = await open(`datasets/${dataset.id}`, bearer(owner.token));
  expect(stream.response.status).toBe(200);
  expect(stream.response.headers.get("content-type")).toStartWith("text/event-stream");
  expect(stream.response.headers.get("cache-control")).toBe("no-store");
  expect(await stream.next()).toEqual({
    id: "1",
    type: "snapshot",
    data: { type: "snapshot", name: "datasets", id: dataset.id, version: 1, data: dataset },
  });
  await patch(dataset.id, { name: "new" });
  expect(await stream.next()).toMatchObject({ id: "2", type: "update", data: { version: 2, data: { name: "new" } } });
  await app.call("DELETE", `/api/datasets/${dataset.id}`, { token: owner.token });
  expect(await stream.next()).toMatchObject({ type: "delete", data: { id: dataset.id } });
  expect(await stream.next()).toMatchObject({ type: "close", data: { code: 1000 } });
  expect(await stream.next()).toBeNull();
});

test("Last-Event-ID: who holds the newest version is told only what comes after it, who does not gets it", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const openWith = (last: string) => open(`datasets/${id}`, { ...bearer(owner.token), "Last-Event-ID": last });
  const holds = await openWith("1");
  const lags = await openWith("0");
  // Told after the other was judged, which came first.
  expect(await lags.next()).toMatchObject({ id: "1", type: "snapshot" });
  await patch(id, { name: "new" });
  expect(await holds.next()).toMatchObject({ id: "2", type: "update", data: { data: { name: "new" } } });
});

test("a list is streamed as well", async () => {
  const stream = await open("tags?name=streamed");
  expect(await stream.next()).toMatchObject({ id: null, type: "snapshot", data: { data: { total: 0, list: [] } } });
  const { id } = await app.make("tags", owner.token, { name: "streamed" });
  expect(await stream.next()).toMatchObject({ id: "1", type: "create", data: { id, data: { name: "streamed" } } });
});

test("a session that ends ends its streams", async () => {
  const user = await app.signUp();
  const stream = await open(`users/${user.id}`, bearer(user.token));
  await stream.next();
  await app.call("DELETE", `/api/sessions/${user.sessionId}`, { token: user.token });
  expect(await stream.next()).toMatchObject({ type: "close", data: { code: 4401 } });
  expect(await stream.next()).toBeNull();
});

test.each([
  { path: "datasets/2000000000", headers: {}, status: 404 },
  { path: "tags?page=0", headers: {}, status: 400 },
  { path: "tags", headers: bearer("wrong"), status: 401 },
  { path: "tags", headers: { Origin: "https://evil.example" }, status: 403 },
])("what GET refuses is refused: $status", async ({ path, headers, status }) => {
  const { response } = await open(path, headers as Record<string, string>);
  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
});

test("a page of an allowed origin may read the stream", async () => {
  const { response } = await open("tags", { Origin: allowedOrigin });
  expect(response.headers.get("access-control-allow-origin")).toBe(allowedOrigin);
});

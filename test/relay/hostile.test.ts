/** Clients that read slowly, not at all, or come in great numbers. */
import { expect, test } from "bun:test";
import { connect as connectTcp } from "node:net";
import { guest } from "../../src/auth/viewer.ts";
import { Follower } from "../../src/relay/follower.ts";
import { listen as listenOnRuntime } from "../../src/runtime/index.ts";
import { startApp } from "../helpers/app.ts";
import { eventually, handshake, listen } from "../helpers/socket.ts";

const app = await startApp({ socketLimits: { perUser: 2, perAddress: 5 } });
const server = await listen(app);
const owner = await app.signUp("owner");
const { id } = await app.make("datasets", owner.token, { images: [], public: true });
const path = `datasets/${id}`;

test("a user and an address hold so many connections open, and get places back when one ends", async () => {
  const refused = async (headers: Record<string, string> = {}) => handshake(server.port, `/api/${path}`, headers);
  const bearer = { Authorization: `Bearer ${owner.token}` };
  const mine = await Promise.all([1, 2].map(() => server.watch(path, { token: owner.token })));
  const answer = await refused(bearer);
  expect(answer.status).toBe(429);
  expect(answer.headers.get("retry-after")).toBe("10");
  expect(JSON.parse(answer.body).code).toBe("too-many-requests");
  const guests = await Promise.all([1, 2, 3].map(() => server.watch(path)));
  expect((await refused()).status).toBe(429);
  const streams = await fetch(`http://127.0.0.1:${server.port}/api/${path}`, {
    headers: { Accept: "text/event-stream" },
  });
  expect(streams.status).toBe(429);
  // A refused one has taken no place, and a closed one gives its own back.
  await Promise.all([...mine, ...guests].map((watch) => watch.close()));
  await eventually(
    () => refused(bearer),
    ({ status }) => status === 101,
  );
});

test("a stream whose client has gone gives its place back", async () => {
  const user = await app.signUp();
  const abort = new AbortController();
  const ask = (signal?: AbortSignal) =>
    fetch(`http://127.0.0.1:${server.port}/api/${path}`, {
      headers: { Accept: "text/event-stream", Authorization: `Bearer ${user.token}` },
      signal,
    });
  for (let i = 0; i < 2; i += 1) expect((await ask(abort.signal)).status).toBe(200);
  expect((await ask()).status).toBe(429);
  abort.abort();
  const stream = await eventually(ask, ({ status }) => status === 200);
  await stream.body?.cancel();
});

test("one that does not read is left out, and gets the newest state once it reads", async () => {
  const opened = Promise.withResolvers<void>();
  const follower = new Follower(guest, { name: "tags", id: 1 }, ({ text }) => text);
  const told = (type: "update" | "snapshot", text: string) => ({ type, version: 1, text: text.padEnd(8_000_000) });
  const runtime = listenOnRuntime({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => new Response(),
    upgrade: async () => ({
      protocol: null,
      visitor: {
        opened(socket) {
          follower.attach(socket);
          follower.topic = { catchUp: (behind) => behind.send(told("snapshot", "the newest")) };
          opened.resolve();
        },
        closed: () => follower.end(),
      },
    }),
  });
  app.onClose(() => runtime.stop(0));
  const deaf = connectTcp(runtime.port, "127.0.0.1");
  deaf.write(
    "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  deaf.pause();
  await opened.promise;
  // Far more than the system takes for a reader that is deaf.
  for (let i = 1; i <= 5; i += 1) follower.send(told("update", `update ${i}`));
  let received = "";
  await new Promise<void>((resolve) => {
    deaf.on("data", (chunk: Buffer) => {
      received += chunk.toString("latin1").replaceAll(/ {2,}/g, " ");
      if (received.includes("the newest")) resolve();
    });
    deaf.resume();
  });
  expect(received).toContain("update 1");
  expect(received).not.toContain("update 5");
  deaf.destroy();
});

test("who has stopped reading is closed with 1013; who reads slowly is not, and is caught up in the end", async () => {
  let waiting = 0;
  const told: string[] = [];
  const closed: number[] = [];
  const socket = {
    send(text: string) {
      told.push(text);
      waiting += 100_000;
      return waiting;
    },
    buffered: () => waiting,
    close: (code: number) => void closed.push(code),
  };
  const follower = new Follower(guest, { name: "tags", id: 1 }, ({ text }) => text);
  follower.attach(socket);
  let caughtUp = 0;
  follower.topic = {
    catchUp() {
      caughtUp += 1;
    },
  };
  const frame = (text: string) => ({ type: "update" as const, version: 1, text });
  follower.send(frame("one"));
  follower.send(frame("two"));
  expect(told).toEqual(["one"]);
  let now = performance.now();
  for (let i = 0; i < 9; i += 1) {
    now += 9_000;
    waiting -= 11_000;
    follower.check(now);
  }
  expect([closed, caughtUp]).toEqual([[], 0]);
  waiting = 0;
  follower.check(now);
  expect([closed, caughtUp]).toEqual([[], 1]);
  follower.send(frame("three"));
  follower.check(performance.now() + 10_001);
  expect(closed).toEqual([1013]);
});

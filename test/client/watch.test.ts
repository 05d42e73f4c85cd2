/** Watching through the client: whole objects, never backwards, through connections that break. */
import { expect, test } from "bun:test";
import { createClient } from "../../src/client/index.ts";
import { cuttableSocket, scriptedSocket, startClients } from "../helpers/client.ts";

const { app, client, url } = await startClients();

/** The next state for which `isIt` holds. */
async function until<T>(states: AsyncIterator<T>, isIt: (state: T) => boolean): Promise<T> {
  for (;;) {
    const { done, value } = await states.next();
    if (done) throw new Error("the watch ended");
    if (isIt(value)) return value;
  }
}

test("a private object is watched with the token among the subprotocols, and ends when it is deleted", async () => {
  const { token } = await app.signUp();
  const socket = cuttableSocket();
  const mine = client(token, { WebSocket: socket.SocketClass });
  const dataset = await mine.datasets.create({ images: [] });
  const states = mine.datasets.watch(dataset.id);
  const first = await until(states, () => true);
  expect(first.object).toEqual(dataset);
  expect(socket.offers[0]?.protocols).toEqual(["atelier.v1", `bearer.${token}`]);
  expect(socket.offers[0]?.url).not.toContain(token);
  const patched = await mine.datasets.patch(dataset.id, { name: "second" });
  const second = await until(states, ({ object }) => object.name === "second");
  expect(second.object).toEqual(patched);
  expect(second.version).toBeGreaterThan(first.version);
  await mine.datasets.delete(dataset.id);
  expect(await states.next()).toEqual({ done: true, value: undefined });
});

test("a connection that breaks is made again, and what changed meanwhile is caught up with", async () => {
  const { token } = await app.signUp();
  const socket = cuttableSocket();
  const mine = client(token, { WebSocket: socket.SocketClass });
  const { id } = await mine.datasets.create({ images: [] });
  const states = mine.datasets.watch(id);
  const versions = [(await until(states, () => true)).version];
  for (const name of ["one", "two"]) {
    socket.cut();
    await mine.datasets.patch(id, { name });
    versions.push((await until(states, ({ object }) => object.name === name)).version);
  }
  expect(versions).toEqual(versions.toSorted((a, b) => a - b));
  expect(socket.offers).toHaveLength(3);
  await states.return();
});

test("what may not be watched is refused with the problem that GET answers", async () => {
  const { token } = await app.signUp();
  const { id } = await client(token).datasets.create({ images: [] });
  expect(
    await client()
      .datasets.watch(id)
      .next()
      .catch((error) => error.code),
  ).toBe("not-found");
  expect(
    await client("wrong")
      .tags.watch(1)
      .next()
      .catch((error) => error.code),
  ).toBe("token-invalid");
});

test("a session that is revoked ends the watch with the problem", async () => {
  const user = await app.signUp();
  const other = await app.logIn(user.id);
  const mine = client(user.token);
  const { id } = await mine.datasets.create({ images: [] });
  const states = mine.datasets.watch(id);
  await until(states, () => true);
  await client(other.token).sessions.delete(user.sessionId);
  expect(await states.next().catch((error) => error.code)).toBe("token-invalid");
});

test("a signal ends the watch without an error, at once", async () => {
  const { token } = await app.signUp();
  const mine = client(token);
  const { id } = await mine.datasets.create({ images: [] });
  const control = new AbortController();
  let count = 0;
  for await (const _ of mine.datasets.watch(id, { signal: control.signal })) {
    count += 1;
    control.abort();
  }
  expect(count).toBe(1);
  expect((await mine.datasets.watch(id, { signal: AbortSignal.abort() }).next()).done).toBe(true);
});

test("a list is watched: the page, then whole objects that come, change and go, through a connection that breaks", async () => {
  const { token } = await app.signUp();
  const socket = cuttableSocket();
  const mine = client(token, { WebSocket: socket.SocketClass });
  const first = await mine.datasets.create({ images: [], tags: ["watched"] });
  const changes = mine.datasets.watchList({ tag: "watched", sort: "createdAt" });
  const next = async () => (await changes.next()).value;
  expect(await next()).toEqual({ type: "snapshot", page: await mine.datasets.list({ tag: "watched" }) });
  const second = await mine.datasets.create({ images: [], tags: ["watched"] });
  expect(await next()).toEqual({ type: "create", id: second.id, version: 1, object: second });
  const patched = await mine.datasets.patch(first.id, { name: "changed" });
  expect(await next()).toEqual({ type: "update", id: first.id, version: 2, object: patched });
  socket.cut();
  await mine.datasets.delete(second.id);
  const again = await until(changes, (change) => change.type === "snapshot");
  expect(again).toEqual({ type: "snapshot", page: await mine.datasets.list({ tag: "watched" }) });
  await mine.datasets.patch(first.id, { tags: [] });
  expect(await next()).toEqual({ type: "delete", id: first.id });
  await changes.return();
});

test("a list that may not be watched is refused with the problem that GET answers", async () => {
  const wrong = client().datasets.watchList({ sort: "hot" } as never);
  expect(await wrong.next().catch((error) => error.code)).toBe("invalid-query");
});

const answers = (async () => Response.json({})) as unknown as typeof fetch;
const frame = (type: string, version: number, data: object) => ({ type, name: "tags", id: 1, version, data });

test("an older state is passed over, also after the connection was made anew", async () => {
  const socket = scriptedSocket();
  const mine = createClient({ url, fetch: answers, WebSocket: socket.SocketClass, backoff: () => 1 });
  const states = mine.tags.watch(1);
  const first = states.next();
  while (socket.count() < 1) await Bun.sleep(1);
  socket.say(frame("snapshot", 5, { id: 1, name: "five" }));
  expect((await first).value).toEqual({ version: 5, object: { id: 1, name: "five" } } as never);
  socket.cut();
  const second = states.next();
  while (socket.count() < 2) await Bun.sleep(1);
  socket.say(frame("snapshot", 4, { id: 1, name: "four" }));
  socket.say(frame("update", 5, { name: "five" }));
  // Let the reader take what it was given, before anything newer can hide it.
  await Bun.sleep(1);
  socket.say(frame("update", 6, { name: "six" }));
  expect((await second).value).toEqual({ version: 6, object: { id: 1, name: "six" } } as never);
  await states.return();
});

test("a slow reader gets the newest state, whole, and no backlog", async () => {
  const socket = scriptedSocket();
  const mine = createClient({ url, fetch: answers, WebSocket: socket.SocketClass });
  const states = mine.tags.watch(1);
  const first = states.next();
  while (socket.count() < 1) await Bun.sleep(1);
  socket.say(frame("snapshot", 1, { id: 1, name: "one" }));
  await first;
  for (let version = 2; version <= 50; version += 1) socket.say(frame("update", version, { name: `${version}` }));
  expect((await states.next()).value).toEqual({ version: 50, object: { id: 1, name: "50" } } as never);
  await states.return();
});

test("a slow reader of a list gets the last change of each object, and none that is older", async () => {
  const socket = scriptedSocket();
  const mine = createClient({ url, fetch: answers, WebSocket: socket.SocketClass });
  const changes = mine.tags.watchList();
  const first = changes.next();
  while (socket.count() < 1) await Bun.sleep(1);
  const page = { page: 1, page_size: 20, total: 2, next: false, list: [1, 2].map((id) => ({ id, name: `tag ${id}` })) };
  socket.say({ type: "snapshot", name: "tags", data: page });
  expect((await first).value).toEqual({ type: "snapshot", page } as never);
  const say = (type: string, id: number, version: number, data: object = {}) =>
    socket.say({ type, name: "tags", id, version, data });
  say("create", 3, 1, { id: 3, name: "three" });
  say("update", 1, 4, { name: "one" });
  say("update", 1, 3, { name: "older" });
  say("update", 9, 2, { name: "never heard of" });
  say("delete", 2, 0);
  say("update", 3, 2, { name: "drei" });
  const told = [];
  for (let i = 0; i < 3; i += 1) told.push((await changes.next()).value);
  expect(told).toEqual([
    { type: "update", id: 1, version: 4, object: { id: 1, name: "one" } },
    { type: "delete", id: 2 },
    { type: "create", id: 3, version: 2, object: { id: 3, name: "drei" } },
  ] as never);
  // After a snapshot nothing of before counts.
  say("update", 1, 5, { name: "lost" });
  socket.say({ type: "snapshot", name: "tags", data: { ...page, list: [] } });
  expect((await changes.next()).value).toMatchObject({ type: "snapshot", page: { list: [] } } as never);
  say("create", 1, 4, { id: 1, name: "again" });
  expect((await changes.next()).value).toMatchObject({ type: "create", version: 4 } as never);
  await changes.return();
});

test("a server that is away is tried again, longer and longer", async () => {
  const socket = scriptedSocket();
  const waited: number[] = [];
  const away = (async () => {
    throw new TypeError("the network is away");
  }) as unknown as typeof fetch;
  const backoff = (attempt: number) => {
    waited.push(attempt);
    return 1;
  };
  const states = createClient({ url, fetch: away, WebSocket: socket.SocketClass, backoff }).tags.watch(1);
  const first = states.next();
  for (let count = 1; count <= 3; count += 1) {
    while (socket.count() < count) await Bun.sleep(1);
    socket.cut();
  }
  while (socket.count() < 4) await Bun.sleep(1);
  socket.say(frame("snapshot", 1, { id: 1, name: "one" }));
  expect((await first).value?.version).toBe(1);
  expect(waited).toEqual([1, 2, 3]);
  await states.return();
});

/** What a socket on an object tells: the same as GET, at once and after every change, to those who may GET it. */
import { heapStats } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { sampleOf } from "../helpers/samples.ts";
import { eventually, listen } from "../helpers/socket.ts";

const app = await startApp();
const server = await listen(app);
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

const get = async (path: string, token: string): Promise<Json> =>
  (await app.call("GET", `/api/${path}`, { token })).body;

/** Changes one thing by plain SQL, as an operator would: nobody else announces it. */
const changes: Record<string, string> = {
  sessions: "expires_at = expires_at + interval '1 second'",
  params: `overrides = '{"seed": {"default": 7}}'`,
};

describe("every resource can be watched: snapshot, then a change made by plain SQL, always what GET answers", () => {
  test.each(resources.map(({ name }) => ({ name })))("$name", async ({ name }) => {
    const id = await sampleOf(name).make(app, { owner, admin }, false);
    const watch = await server.watch(`${name}/${id}`, { token: admin.token });
    const [snapshot] = watch.frames;
    expect(snapshot).toMatchObject({ type: "snapshot", name, id });
    expect(watch.state).toEqual(await get(`${name}/${id}`, admin.token));

    const updated = watch.next((frame) => frame.type === "update");
    await app.sql.unsafe(`update ${name} set ${changes[name] ?? "name = 'Renamed'"} where id = '${id}'`);
    const update: Json = await updated;
    expect(update).toMatchObject({ type: "update", name, id });
    expect(update.version).toBeGreaterThan((snapshot as Json).version);
    expect(watch.state).toEqual(await get(`${name}/${id}`, admin.token));
    // Only what has changed: the whole object would be another snapshot.
    expect(Object.keys(update.data).length).toBeLessThan(Object.keys(watch.state).length);
    await watch.close();
  });
});

describe("an object that is deleted says so and closes 1000", () => {
  test.each(resources.filter((r) => r.remove).map(({ name }) => ({ name })))("$name", async ({ name }) => {
    const id = await sampleOf(name).make(app, { owner, admin }, false);
    const watch = await server.watch(`${name}/${id}`, { token: admin.token });
    expect((await app.call("DELETE", `/api/${name}/${id}`, { token: admin.token })).status).toBe(204);
    expect((await watch.closed).code).toBe(1000);
    expect(watch.frames.at(-1)).toEqual({ type: "delete", name, id } as Json);
  });
});

test("many changes: the versions rise, and the last state is GET's", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const watch = await server.watch(`datasets/${id}`, { token: owner.token });
  for (let i = 1; i <= 30; i += 1) {
    await app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { name: `Name ${i}` } });
  }
  await watch.until(({ name }) => name === "Name 30");
  const versions = watch.frames.map((frame: Json) => frame.version);
  expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));
  expect(watch.state).toEqual(await get(`datasets/${id}`, owner.token));
});

test("each viewer gets the object as it may see it", async () => {
  const target = await app.signUp("watched");
  const watches = await Promise.all(
    [target.token, stranger.token, undefined].map((token) => server.watch(`users/${target.id}`, { token })),
  );
  const updates = watches.map((watch) => watch.next((frame) => frame.type === "update"));
  await app.sql`update users set name = 'Other', email = 'other@example.com' where id = ${target.id}`;
  await Promise.all(updates);
  expect(watches.map((watch) => "email" in watch.state)).toEqual([true, false, false]);
  expect(watches.map((watch) => watch.state.name)).toEqual(["Other", "Other", "Other"]);
});

test("who owns what a public object refers to is shown the reference, others are not", async () => {
  const third = await app.signUp("third");
  const model = await app.makeModel(stranger.token, { public: true });
  const image = await app.make("images", owner.token, { prompt: "a lake", model_id: model.id, public: true });
  await app.sql`update models set public = false where id = ${model.id}`;
  const tokens = [owner.token, stranger.token, third.token, admin.token, undefined];
  const path = `images/${image.id}`;
  const watches = await Promise.all(tokens.map((token) => server.watch(path, { token })));
  const list = await server.watch(`images?id=${image.id}`, { token: stranger.token });
  const inList = list.next((frame) => frame.type === "update");
  await app.sql`update images set name = 'Other' where id = ${image.id}`;
  for (const [index, watch] of watches.entries()) {
    await watch.until(({ name }) => name === "Other");
    expect(watch.state).toEqual((await app.call("GET", `/api/${path}`, { token: tokens[index] })).body);
  }
  const seen = watches.map((watch) => watch.state.model_id);
  expect(seen).toEqual([null, model.id, null, model.id, null]);
  expect(list.state.list[0].model_id).toBe(model.id);
  expect(((await inList) as Json).data).toMatchObject({ name: "Other" });
});

test("a model that is made private vanishes from a stranger's and a guest's socket, not from the owner's", async () => {
  const { id } = await app.makeModel(owner.token, { public: true });
  const [mine, others, guests] = await Promise.all(
    [owner.token, stranger.token, undefined].map((token) => server.watch(`models/${id}`, { token })),
  );
  await app.call("PATCH", `/api/models/${id}`, { token: owner.token, body: { public: false } });
  for (const watch of [others, guests]) {
    expect((await watch?.closed)?.code).toBe(1000);
    expect(watch?.frames.at(-1)).toMatchObject({ type: "delete", id });
  }
  expect((await mine?.until((state) => state.public === false))?.id).toBe(id);
});

test("an object that a tag's new name shows on is told of it", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [], tags: ["old name"] });
  const watch = await server.watch(`datasets/${id}`, { token: owner.token });
  await app.sql`update tags set name = 'new name' where name = 'old name'`;
  await watch.until(({ tags }) => tags[0] === "new name");
  await app.sql`delete from tags where name = 'new name'`;
  await watch.until(({ tags }) => tags.length === 0);
});

test("a statement that changes hundreds of rows reaches those who watch one of them", async () => {
  await app.sql`
    insert into datasets (name, user_id) select 'Data set ' || n, ${owner.id} from generate_series(1, 300) n
  `;
  const [row] = await app.sql<{ id: number }[]>`select max(id) as id from datasets`;
  const watch = await server.watch(`datasets/${row?.id}`, { token: owner.token });
  await app.sql`update datasets set info = 'all of them'`;
  await watch.until(({ info }) => info === "all of them");
});

test("a change that is rolled back is not told", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const watch = await server.watch(`datasets/${id}`, { token: owner.token });
  await app.sql
    .begin(async (tx) => {
      await tx`update datasets set name = 'Never' where id = ${id}`;
      throw new Error("no");
    })
    .catch(() => {});
  await app.sql`update datasets set info = 'later' where id = ${id}`;
  await watch.until(({ info }) => info === "later");
  expect(watch.valuesOf("name")).toEqual(["Data set"]);
});

test("after the listening connection was killed everything comes again, with what was missed", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const watch = await server.watch(`datasets/${id}`, { token: owner.token });
  const again = watch.next((frame) => frame.type === "snapshot");
  await app.sql.begin(async (tx) => {
    // In one transaction, so that the change is announced to nobody.
    await tx`select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and query ilike 'listen%' and pid <> pg_backend_pid()`;
    await tx`update datasets set name = 'Missed' where id = ${id}`;
  });
  expect(await again).toMatchObject({ type: "snapshot", id, data: { name: "Missed" } });
  await app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { info: "seen" } });
  await watch.until(({ info }) => info === "seen");
});

test("two sockets of one session and one of another all see the same", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const other = await app.logIn(owner.id);
  const watches = await Promise.all(
    [owner.token, owner.token, other.token].map((token) => server.watch(`datasets/${id}`, { token })),
  );
  await watches[0]?.close();
  await app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { name: "Both" } });
  for (const watch of watches.slice(1)) expect((await watch.until(({ name }) => name === "Both")).id).toBe(id);
});

test("a socket that comes and goes while the object changes misses nothing", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [] });
  const stays = await server.watch(`datasets/${id}`, { token: owner.token });
  for (let i = 1; i <= 10; i += 1) {
    const [watch] = await Promise.all([
      server.watch(`datasets/${id}`, { token: stranger.token, headers: { Authorization: `Bearer ${admin.token}` } }),
      app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { name: `Name ${i}` } }),
    ]);
    await watch.until(({ name }) => name === `Name ${i}`);
    await watch.close();
  }
  await stays.until(({ name }) => name === "Name 10");
  await eventually(
    () => get(`datasets/${id}`, owner.token),
    (state) => Bun.deepEquals(state, stays.state),
  );
});

// On Deno the server's memory is another process's.
test.skipIf(app.deno !== null)("a socket keeps nothing of the request that it came by", async () => {
  const { id } = await app.make("datasets", owner.token, { images: [], public: true });
  const count = () => {
    Bun.gc(true);
    return heapStats().objectTypeCounts.Request ?? 0;
  };
  const before = count();
  const watches = await Promise.all(Array.from({ length: 20 }, () => server.watch(`datasets/${id}`)));
  expect(count() - before).toBeLessThan(10);
  await Promise.all(watches.map((watch) => watch.close()));
});

/** What a socket on a list tells: the page, and then whatever comes into the list, changes in it, or leaves it. */
import { expect, test } from "bun:test";
import type { ListFrame } from "../../src/relay/frames.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { handshake, listen } from "../helpers/socket.ts";

const app = await startApp();
const server = await listen(app);
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

/** A watch whose frames are those of a list. */
async function watch(path: string, token?: string) {
  const opened = await server.watch(path, { token });
  return {
    ...opened,
    page: opened.state,
    frames: opened.frames as unknown as ListFrame[],
    next: (type: ListFrame["type"], id?: number) =>
      opened.next((frame) => (frame.type as string) === type && (id === undefined || (frame as Json).id === id)),
    close: () => opened.close(),
    socket: opened.socket,
  };
}
const make = (token: string, fields: object = {}) => app.make("datasets", token, { images: [], ...fields });
const patch = (id: number, body: object) => app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body });

test("the page first, as GET answers it; then create, update and delete", async () => {
  const first = await make(owner.token);
  const list = await watch("datasets?pageSize=1&sort=createdAt", owner.token);
  expect(list.frames[0]).toMatchObject({ type: "snapshot", name: "datasets" });
  const answer = await app.call("GET", "/api/datasets?pageSize=1&sort=createdAt", { token: owner.token });
  expect(list.page).toEqual(answer.body);
  expect(list.page.list[0].id).toBe(first.id);

  const created = list.next("create");
  const second = await make(owner.token, { name: "second" });
  expect(await created).toMatchObject({ name: "datasets", id: second.id, version: 1, data: second } as Json);

  const updated = list.next("update");
  await patch(second.id, { info: "changed" });
  const update: Json = await updated;
  expect(update).toMatchObject({ id: second.id, version: 2, data: { info: "changed" } });
  expect(Object.keys(update.data).sort()).toEqual(["info", "updated_at"]);

  const gone = list.next("delete");
  await app.call("DELETE", `/api/datasets/${second.id}`, { token: owner.token });
  expect(await gone).toEqual({ type: "delete", name: "datasets", id: second.id } as Json);
  await list.close();
});

test("an object comes and goes with the conditions, whichever kind they are of", async () => {
  const queries = ["name=wanted", "tag=wanted", "search=wanted", "public=true&tag=wanted,other"];
  const lists = await Promise.all(queries.map((query) => watch(`datasets?${query}`, owner.token)));
  const created = Promise.all(lists.map((list) => list.next("create")));
  const { id } = await make(owner.token, { name: "plain", tags: ["other"] });
  await patch(id, { name: "wanted", tags: ["wanted"], public: true });
  expect((await created).map((frame: Json) => [frame.id, frame.data.name])).toEqual(queries.map(() => [id, "wanted"]));
  const gone = Promise.all(lists.map((list) => list.next("delete", id)));
  await patch(id, { name: "nothing", tags: [], public: false });
  await gone;
});

test("each viewer is told of what it may see, as it may see it", async () => {
  const tokens = [owner.token, stranger.token, admin.token, undefined];
  const lists = await Promise.all(tokens.map((token) => watch(`datasets?user_id=${owner.id}`, token)));
  const [mine, others, all, guests] = lists;
  const created = Promise.all([mine?.next("create"), all?.next("create")]);
  const { id } = await make(owner.token);
  await created;
  const published = Promise.all([others?.next("create", id), guests?.next("create", id)]);
  const seen = Promise.all([mine?.next("update", id), all?.next("update", id)]);
  await patch(id, { public: true });
  await Promise.all([published, seen]);
  // The private one was told to neither of them before it was published.
  for (const list of [others, guests]) {
    const told = list?.frames.filter((frame) => "id" in frame && frame.id === id);
    expect(told).toMatchObject([{ type: "create", data: { public: true, report: null } }]);
  }
  const gone = Promise.all([others?.next("delete", id), guests?.next("delete", id)]);
  await patch(id, { public: false });
  await gone;
});

test("a role that is taken away takes out of the list what it showed", async () => {
  const demoted = await app.admin("demoted");
  const { id } = await make(owner.token);
  const list = await server.watch(`datasets?id=${id}`, { token: demoted.token });
  expect(list.state.total).toBe(1);
  await app.call("PATCH", `/api/users/${demoted.id}`, { token: admin.token, body: { admin: false } });
  await list.until(({ total }) => total === 0);
  await list.close();
});

test("a statement that changes hundreds of rows brings the page again", async () => {
  await app.sql`insert into tags (name) select 'tag ' || n from generate_series(1, 250) n`;
  const list = await server.watch("tags?pageSize=2");
  await app.sql`update tags set name = 'renamed ' || id`;
  await list.until((page) => page.list[0].name.startsWith("renamed"));
});

test("a list of what each session sees differently tells each its own", async () => {
  const other = await app.logIn(stranger.id);
  const list = await watch("sessions", other.token);
  const created = list.next("create");
  const third = await app.logIn(stranger.id);
  expect(await created).toMatchObject({ id: third.sessionId, data: { current: false } } as Json);
  const updated = list.next("update", other.sessionId as never);
  await app.sql`update sessions set expires_at = expires_at + interval '1 second' where id = ${other.sessionId}`;
  await updated;
  expect(list.page.list.find((row: Json) => row.id === other.sessionId).current).toBe(true);
});

test.each([
  { query: "?nmae=x", token: undefined, status: 400 },
  { query: "?status=running", token: undefined, status: 400 },
  { path: "sessions", query: "", token: undefined, status: 401 },
  { path: "docs", query: "", token: undefined, status: 404 },
  { path: "files", query: "", token: owner.token, status: 404 },
])("what GET refuses is refused: $path$query $status", async ({ path = "datasets", query, token, status }) => {
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  expect((await handshake(server.port, `/api/${path}${query}`, headers)).status).toBe(status);
});

test("a session that ends closes its lists, too", async () => {
  const user = await app.signUp();
  const list = await server.watch("tags", { token: user.token });
  await app.call("DELETE", `/api/sessions/${user.sessionId}`, { token: user.token });
  expect((await list.closed).code).toBe(4401);
});

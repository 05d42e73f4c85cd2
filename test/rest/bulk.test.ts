import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { type Answer, type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const { sql } = app;
const user = await app.signUp();
const stranger = await app.signUp();
const admin = await app.admin();

const bulkNames = ["datasets", "tags", "models", "images", "tasks"];

interface Options {
  body?: unknown;
  token?: string;
  headers?: Record<string, string>;
}
const call = (method: string, path: string, { token = user.token, ...options }: Options = {}): Promise<Answer> =>
  app.call(method, path, { token, ...options });
const idsOf = (list: Json[]) => list.map((one) => one.id as number);
const some = (count: number, make: (i: number) => Json) => Array.from({ length: count }, (_, i) => make(i));

async function makeMany(name: string, count: number): Promise<number[]> {
  const dataset = name === "models" ? await app.make("datasets", user.token, { images: [] }) : null;
  const bodies: Record<string, () => Json> = {
    datasets: () => ({ images: [] }),
    tags: () => ({ name: randomUUID() }),
    models: () => ({ dataset_id: dataset.id }),
    images: () => ({ prompt: "a lake" }),
    tasks: () => ({ type: "infer", prompt: "a lake" }),
  };
  const answer = await call("POST", `/api/${name}`, { body: some(count, bodies[name] as () => Json) });
  expect(answer.status).toBe(201);
  return idsOf(answer.body.list);
}

describe.each(bulkNames)("%s", (name) => {
  // Tags are everybody's: only admins change them.
  const writer = name === "tags" ? admin : user;

  test("an array is created, patched and deleted as one", async () => {
    const ids = await makeMany(name, 3);
    const [first = 0, second = 0, third = 0] = ids;
    const url = `/api/${name}?id=${[second, first].join(",")}`;
    // Tag names are unique: two cannot get the same.
    const patch = name === "tags" ? {} : { name: "All of them" };
    const patched = await call("PATCH", url, { token: writer.token, body: patch });
    expect(patched.status).toBe(200);
    expect(idsOf(patched.body.list)).toEqual([second, first]);
    for (const one of patched.body.list) {
      expect(one).toEqual((await call("GET", `/api/${name}/${one.id}`, { token: writer.token })).body);
      if (name !== "tags") expect(one.name).toBe("All of them");
    }
    const removed = await call("DELETE", url, { token: writer.token });
    expect([removed.status, removed.text]).toEqual([204, ""]);
    const left = await call("GET", `/api/${name}?id=${ids.join(",")}`, { token: writer.token });
    expect(idsOf(left.body.list)).toEqual([third]);
  });

  test.each(["PATCH", "DELETE"])("%s with an id that does not exist is 404 for the whole", async (method) => {
    const [first = 0] = await makeMany(name, 1);
    const body = method === "PATCH" ? { name: "Changed" } : undefined;
    const answer = await call(method, `/api/${name}?id=${first},2147483600`, { token: writer.token, body });
    expect(answer.status).toBe(404);
    const after = await call("GET", `/api/${name}/${first}`, { token: writer.token });
    expect(after.status).toBe(200);
    expect(after.body.name).not.toBe("Changed");
  });

  test.each(["POST", "PATCH", "DELETE"])("%s needs a token", async (method) => {
    const body = method === "DELETE" ? undefined : [];
    const path = method === "POST" ? `/api/${name}` : `/api/${name}?id=1`;
    expect((await app.call(method, path, { body })).status).toBe(401);
  });

  test("Allow tells the truth", async () => {
    expect((await call("PUT", `/api/${name}`)).headers.get("allow")).toBe("GET, HEAD, POST, PATCH, DELETE");
    expect((await call("POST", `/api/${name}/1`)).headers.get("allow")).toBe("GET, HEAD, PATCH, DELETE");
  });
});

test.each(["users", "sessions", "servers", "params"])("%s are written one by one", async (name) => {
  for (const method of ["PATCH", "DELETE"]) {
    const answer = await call(method, `/api/${name}?id=1`, { token: admin.token, body: {} });
    expect(answer.status).toBe(405);
    expect(answer.headers.get("allow")).toBe(name === "params" ? "GET, HEAD" : "GET, HEAD, POST");
  }
  if (name === "params") return;
  expect((await call("POST", `/api/${name}`, { token: admin.token, body: [] })).status).toBe(422);
});

test.each([
  { what: "no filter", query: "" },
  { what: "an empty id", query: "?id=" },
  { what: "an empty part", query: "?id=1,,2" },
  { what: "a word", query: "?id=all" },
  { what: "a negative id", query: "?id=-1" },
  { what: "another filter", query: "?id=1&user_id=2" },
  { what: "only another filter", query: "?public=false" },
  { what: "a page", query: "?id=1&page=1" },
  { what: "1,001 ids", query: `?id=${some(1001, (i) => i + 1).join(",")}` },
])("PATCH and DELETE with $what are 400", async ({ query }) => {
  for (const method of ["PATCH", "DELETE"]) {
    const answer = await call(method, `/api/images${query}`, { body: method === "PATCH" ? {} : undefined });
    expect(answer.status).toBe(400);
    expect(answer.body.errors[0].parameter).toBeString();
  }
});

test("ids named twice count once, and a repeated filter intersects", async () => {
  const [a = 0, b = 0, c = 0] = await makeMany("images", 3);
  const twice = await call("PATCH", `/api/images?id=${a},${b},${a}`, { body: { name: "x" } });
  expect(idsOf(twice.body.list)).toEqual([a, b]);
  expect(twice.body.list.map((one: Json) => one.name)).toEqual(["x", "x"]);
  const common = await call("PATCH", `/api/images?id=${a},${b}&id=${b},${c}`, { body: { name: "y" } });
  expect(idsOf(common.body.list)).toEqual([b]);
});

test("a private object of another is 404 for the whole, a public one 403", async () => {
  const [mine = 0] = await makeMany("images", 1);
  const secret = await app.make("images", stranger.token, { prompt: "secret" });
  const shown = await app.make("images", stranger.token, { prompt: "shown", public: true });
  for (const method of ["PATCH", "DELETE"]) {
    const body = method === "PATCH" ? { name: "Mine now" } : undefined;
    const hidden = await call(method, `/api/images?id=${mine},${shown.id},${secret.id}`, { body });
    expect(hidden.status).toBe(404);
    expect((await call(method, `/api/images?id=${mine},${shown.id}`, { body })).status).toBe(403);
  }
  const [row] = await sql`select name from images where id = ${mine}`;
  expect(row?.name).toBe("a lake");
});

test("faults are named by index, all at once, and nothing is created", async () => {
  const before = await sql`select count(*) from tags`;
  const body = [{ name: randomUUID() }, { name: "" }, { name: randomUUID(), colour: 1 }, 5, {}];
  const answer = await call("POST", "/api/tags", { body });
  expect(answer.status).toBe(422);
  expect(answer.body.errors.map((fault: Json) => fault.pointer)).toEqual(["/1/name", "/2/colour", "/3", "/4/name"]);
  expect(await sql`select count(*) from tags`).toEqual(before);
});

test("a fault that only the database can tell has its index too", async () => {
  const answer = await call("POST", "/api/images", {
    body: [{ prompt: "a" }, { prompt: "b", model_id: 2147483600 }, { prompt: "c", from_image: "/api/files/none" }],
  });
  expect(answer.status).toBe(422);
  expect(answer.body.errors.map((fault: Json) => fault.pointer)).toEqual(["/1/model_id", "/2/from_image"]);
});

test("a conflict in the middle undoes the whole and says which", async () => {
  const taken = await app.make("tags", user.token, { name: randomUUID() });
  const names = [randomUUID(), randomUUID()];
  const answer = await call("POST", "/api/tags", { body: [...names, taken.name].map((name) => ({ name })) });
  expect(answer.status).toBe(409);
  expect(answer.body.code).toBe("name-taken");
  expect(answer.body.detail).toContain(taken.name);
  expect(await sql`select from tags where name = any (${names})`).toHaveLength(0);
});

test.each([
  { what: "none", count: 0, status: 422 },
  { what: "1,001", count: 1001, status: 422 },
])("an array of $what objects: $status", async ({ count, status }) => {
  expect((await call("POST", "/api/tags", { body: some(count, (i) => ({ name: `n${i}` })) })).status).toBe(status);
});

test("If-Match is refused: one ETag cannot speak for many", async () => {
  const [id = 0] = await makeMany("images", 1);
  const headers = { "If-Match": "*" };
  expect((await call("PATCH", `/api/images?id=${id}`, { body: {}, headers })).status).toBe(400);
  expect((await call("DELETE", `/api/images?id=${id}`, { headers })).status).toBe(400);
});

test("an Idempotency-Key covers the whole array", async () => {
  const headers = { "Idempotency-Key": randomUUID() };
  const body = [{ prompt: "one" }, { prompt: "two" }];
  const first = await call("POST", "/api/images", { body, headers });
  const again = await call("POST", "/api/images", { body, headers });
  expect(again.headers.get("idempotency-replayed")).toBe("true");
  expect(again.text).toBe(first.text);
  expect((await call("POST", "/api/images", { body: body.slice(1), headers })).status).toBe(422);
});

test("captions merge into each data set by itself", async () => {
  const [a, b] = [await app.upload(user.token), await app.upload(user.token)];
  const images = [a.url, b.url];
  const key = (url: string) => new URL(url).pathname;
  const made = await call("POST", "/api/datasets", {
    body: [
      { images, captions: { [a.url]: "old" } },
      { images, captions: { [a.url]: "other", [b.url]: "kept" } },
    ],
  });
  const [one, two] = idsOf(made.body.list);
  const answer = await call("PATCH", `/api/datasets?id=${one},${two}`, { body: { captions: { [a.url]: "new" } } });
  const captions = answer.body.list.map((set: Json) =>
    Object.fromEntries(Object.entries(set.captions).map(([url, text]) => [key(url), text])),
  );
  expect(captions).toEqual([{ [key(a.url)]: "new" }, { [key(a.url)]: "new", [key(b.url)]: "kept" }]);
});

describe("tasks", () => {
  const statuses = (answer: Answer) => answer.body.list.map((task: Json) => task.status);

  test("are canceled together and tried again together", async () => {
    const ids = await makeMany("tasks", 4);
    const url = `/api/tasks?id=${ids.join(",")}`;
    await call("PATCH", `/api/tasks/${ids[0]}`, { body: { status: "canceled" } });
    expect(statuses(await call("PATCH", url, { body: { status: "canceled" } }))).toEqual(ids.map(() => "canceled"));
    const jobs = () => sql`select from graphile_worker.jobs where task_identifier = 'prepare-task'`;
    const before = (await jobs()).length;
    expect(statuses(await call("PATCH", url, { body: { status: "waiting" } }))).toEqual(ids.map(() => "initial"));
    expect((await jobs()).length).toBe(before + 4);
  });

  test("one that has succeeded keeps all from being canceled", async () => {
    const ids = await makeMany("tasks", 2);
    await sql`update tasks set status = 'success', finished_at = now() where id = ${ids[1] as number}`;
    const answer = await call("PATCH", `/api/tasks?id=${ids.join(",")}`, { body: { status: "canceled" } });
    expect(answer.status).toBe(409);
    expect((await call("GET", `/api/tasks/${ids[0]}`)).body.status).toBe("initial");
  });

  test("take their unfinished images along", async () => {
    const ids = await makeMany("tasks", 3);
    await call("DELETE", `/api/tasks?id=${ids.join(",")}`);
    expect(await sql`select from images where task_id = any (${ids}::int[])`).toHaveLength(0);
  });
});

test("bulks in opposite orders do not block each other", async () => {
  const ids = await makeMany("images", 50);
  const orders = [ids.join(","), ids.toReversed().join(",")];
  const names = some(5, () => randomUUID());
  const answers = await Promise.all(
    some(12, (i) =>
      call("PATCH", `/api/images?id=${orders[i % 2]}`, { body: { tags: i % 2 ? names : names.toReversed() } }),
    ),
  );
  expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([200]));
});

test("a thousand objects are made, changed and deleted as one", async () => {
  const made = await call("POST", "/api/tags", { body: some(1000, () => ({ name: randomUUID() })) });
  expect(made.body.list).toHaveLength(1000);
  const url = `/api/tags?id=${idsOf(made.body.list).join(",")}`;
  const changed = await call("PATCH", url, { token: admin.token, body: {} });
  expect(changed.body.list).toHaveLength(1000);
  expect((await call("DELETE", url, { token: admin.token })).status).toBe(204);
});

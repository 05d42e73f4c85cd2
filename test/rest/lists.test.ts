/** The list rules: pages, orders, and the algebra of filters. */
import { describe, expect, test } from "bun:test";
import { resources } from "../../src/resources/index.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { sampleOf } from "../helpers/samples.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const admin = await app.admin();

/** Names of the data sets below, by which tags they carry: what each query must find. */
const carried: Record<string, string[]> = {
  none: [],
  animal: ["動物"],
  plant: ["植物"],
  "animal in watercolour": ["動物", "水彩"],
  "plant in watercolour": ["植物", "水彩"],
  all: ["動物", "植物", "水彩"],
  latin: ["Ink"],
};
const ids: Record<string, number> = {};
for (const [name, tags] of Object.entries(carried)) {
  ids[name] = (await app.make("datasets", owner.token, { images: [], name, tags, public: name !== "none" })).id;
}

const ask = (query: string, path = "datasets", token: string | undefined = owner.token) =>
  app.call("GET", `/api/${path}?${query}`, { token });

async function names(query: string): Promise<string[]> {
  const answer = await ask(query);
  if (answer.status !== 200) throw new Error(`${query}: ${answer.text}`);
  expect(answer.body.total).toBe(answer.body.list.length);
  return answer.body.list.map((row: Json) => row.name);
}

describe("a comma is a union, a repeated parameter an intersection", () => {
  const id = (name: string) => String(ids[name]);
  test.each([
    { query: "tag=動物", found: ["animal", "animal in watercolour", "all"] },
    { query: "tag=動物,植物", found: ["animal", "plant", "animal in watercolour", "plant in watercolour", "all"] },
    { query: "tag=動物&tag=植物", found: ["all"] },
    { query: "tag=動物,植物&tag=水彩", found: ["animal in watercolour", "plant in watercolour", "all"] },
    { query: "tag=ink", found: ["latin"] },
    { query: "tag=ＩＮＫ", found: ["latin"] },
    { query: `tag=${encodeURIComponent("動物,植物")}&tag=水彩&public=true`, found: carriedBy("水彩") },
    { query: "tag=動物，植物", found: [] }, // a full-width comma parts nothing, whatever it is folded to
    { query: "tag=nobody", found: [] },
    { query: "tag=nobody,Ink", found: ["latin"] },
    { query: "tag=nobody&tag=Ink", found: [] },
    { query: `id=${id("all")},${id("latin")}`, found: ["all", "latin"] },
    { query: `id=${id("all")},${id("latin")}&id=${id("latin")},${id("none")}`, found: ["latin"] },
    { query: `id=${id("all")}&id=${id("latin")}`, found: [] },
    { query: `id=${id("all")},${id("latin")}&tag=Ink`, found: ["latin"] },
    { query: "id=0", found: [] },
    { query: "id=99999999999999999999", found: [] },
    { query: "name=all,latin", found: ["all", "latin"] },
    { query: "public=false", found: ["none"] },
    { query: "public=true,false&tag=Ink", found: ["latin"] },
    { query: "public=true&public=false", found: [] },
    { query: `user_id=${owner.id}&tag=Ink`, found: ["latin"] },
    { query: `user_id=${owner.id}&user_id=${owner.id},1&tag=Ink`, found: ["latin"] },
    { query: `user_id=${admin.id}`, found: [] },
  ])("$query", async ({ query, found }) => expect(await names(query)).toEqual([...found]));

  function carriedBy(tag: string): string[] {
    return Object.keys(carried).filter((name) => carried[name]?.includes(tag));
  }
});

describe("a query with a fault is 400 and says which and what there is", () => {
  test.each([
    { query: "tag=", parameter: "tag", says: "empty" },
    { query: "tag=a,,b", parameter: "tag", says: "empty" },
    { query: "tag=a,", parameter: "tag", says: "empty" },
    { query: "id=", parameter: "id", says: "empty" },
    { query: "id=abc", parameter: "id", says: "whole number" },
    { query: "id=1.5", parameter: "id", says: "whole number" },
    { query: "id=-1", parameter: "id", says: "whole number" },
    { query: "public=yes", parameter: "public", says: "true" },
    { query: "tga=x", parameter: "tga", says: "did you mean tag" },
    { query: "userid=1", parameter: "userid", says: "did you mean user_id" },
    { query: "pagesize=1", parameter: "pagesize", says: "did you mean pageSize" },
    { query: "whatever=1", parameter: "whatever", says: "there are: id, user_id, public, tag, name" },
    { query: "page=0", parameter: "page", says: "from 1" },
    { query: "page=x", parameter: "page", says: "from 1" },
    { query: "page=1&page=2", parameter: "page", says: "once" },
    { query: "pageSize=0", parameter: "pageSize", says: "200" },
    { query: "pageSize=201", parameter: "pageSize", says: "200" },
    { query: "pageSize=5&pageSize=5", parameter: "pageSize", says: "once" },
    { query: "sort=nothing", parameter: "sort", says: "createdAt" },
    { query: "sort=constructor", parameter: "sort", says: "createdAt" },
    { query: "sort=toString", parameter: "sort", says: "createdAt" },
    { query: "sort=name&sort=name", parameter: "sort", says: "once" },
    { query: "order=up", parameter: "order", says: "asc or desc" },
    { query: "order=", parameter: "order", says: "empty" },
    { query: "order=asc&order=asc", parameter: "order", says: "once" },
    { query: "name=%00", parameter: "name", says: "NUL" },
    { query: "tag=a%00b", parameter: "tag", says: "NUL" },
    { query: `id=${Array.from({ length: 201 }, (_, i) => i + 1).join()}`, parameter: "id", says: "200" },
    { query: "constructor=1", parameter: "constructor", says: "unknown" },
  ])("$query", async ({ query, parameter, says }) => {
    const answer = await ask(query);
    expect([answer.status, answer.body.code]).toEqual([400, "invalid-query"]);
    expect(answer.body.errors).toContainEqual({ parameter, detail: expect.stringContaining(says) });
  });

  test("every fault is named at once", async () => {
    const answer = await ask("page=0&pageSize=999&tga=1&sort=x&public=maybe");
    const parameters = answer.body.errors.map((error: Json) => error.parameter);
    expect(parameters.sort()).toEqual(["page", "pageSize", "public", "sort", "tga"]);
  });

  test("two hundred values are allowed", async () => {
    expect((await ask(`id=${Array.from({ length: 200 }, (_, i) => i + 1).join()}`)).status).toBe(200);
  });

  test.each(["users", "tags", "servers", "params", "tasks"])(
    "%s: a filter of another resource is unknown",
    async (name) => {
      expect((await ask("tag=x", name)).status).toBe(400);
    },
  );

  test.each([
    ["users", "email=a@example.com"],
    ["users", "sort=email"],
    ["users", "sort=updatedAt"],
    ["servers", "ip=127.0.0.1"],
  ])("%s: %s is about a field that this viewer cannot see", async (name, query) => {
    expect((await ask(query, name)).status).toBe(400);
  });
});

describe("enums by value and by the labels of the brief", () => {
  const trained = app.makeModel(owner.token, { type: "lora", base_model: "SD2", public: true });

  test.each([
    { path: "tasks", query: "type=訓練" },
    { path: "tasks", query: "type=推理" },
    { path: "tasks", query: "type=train,推理" },
    { path: "servers", query: "type=推理" },
    { path: "servers", query: "status=異常,初始化,閒置,就緒,工作中,關閉中" },
    { path: "models", query: "type=lora,ckp,hyper,ti" },
    { path: "models", query: "status=success" },
    { path: "images", query: "scheduler=DDIM,K_EULER,DPMSolverMultistep,K_EULER_ANCESTRAL,PNDM,KLMS" },
  ])("$path?$query is known", async ({ path, query }) => {
    expect((await ask(query, path)).status).toBe(200);
  });

  test("they find what they name", async () => {
    const { id } = await trained;
    const image = await app.make("images", owner.token, { prompt: "a lake" });
    const find = async (path: string, query: string) => (await ask(query, path)).body.list.map((row: Json) => row.id);
    expect(await find("tasks", "type=推理")).toEqual([image.task_id]);
    expect(await find("tasks", "type=訓練")).toEqual([]);
    expect(await find("models", "base_model=SD2&status=success")).toEqual([id]);
    expect(await find("models", "base_model=SD1.5")).toEqual([]);
    expect(await find("images", `task_id=${image.task_id}`)).toEqual([image.id]);
  });

  test("another value is 400 and the values are listed", async () => {
    const answer = await ask("type=other", "tasks");
    expect(answer.status).toBe(400);
    expect(answer.body.errors[0].detail).toContain("train, infer");
  });

  test("a choice that was narrowed away still finds the rows that have it", async () => {
    const image = await app.make("images", owner.token, { prompt: "a lake", scheduler: "KLMS" });
    const narrow = (choices: string[] | null) =>
      app.call("PATCH", "/api/params/image", { token: admin.token, body: { value: { scheduler: { enum: choices } } } });
    expect((await narrow(["K_EULER"])).status).toBe(200);
    const answer = await ask("scheduler=KLMS", "images");
    await narrow(null);
    expect([answer.status, answer.body.list?.[0]?.id]).toEqual([200, image.id]);
  });
});

describe("pages", () => {
  test("the shape, and the defaults", async () => {
    const { body } = await ask("");
    expect(Object.keys(body)).toEqual(["page", "page_size", "total", "next", "list"]);
    expect(body).toMatchObject({ page: 1, page_size: 20, total: 7, next: false });
  });

  test.each([1, 2, 3, 7, 8])("in pages of %d, every row comes once and next says whether more do", async (size) => {
    const seen: number[] = [];
    for (let page = 1; ; page += 1) {
      const { body } = await ask(`page=${page}&pageSize=${size}`);
      expect(body).toMatchObject({ page, page_size: size, total: 7 });
      seen.push(...body.list.map((row: Json) => row.id));
      expect(body.next).toBe(page * size < 7);
      if (!body.next) break;
    }
    expect(seen).toEqual(Object.values(ids));
  });

  test("past the end: empty, no next, the true total", async () => {
    const { body } = await ask("page=1000000&pageSize=200");
    expect(body).toEqual({ page: 1_000_000, page_size: 200, total: 7, next: false, list: [] });
  });
});

describe("orders", () => {
  const by = async (query: string) => (await ask(query)).body.list.map((row: Json) => row.id);
  const all = Object.values(ids);

  test("plain order is by id; desc turns it", async () => {
    expect(await by("")).toEqual(all);
    expect(await by("order=desc")).toEqual(all.toReversed());
  });

  test("createdAt and updatedAt are newest first; asc turns them", async () => {
    expect(await by("sort=createdAt")).toEqual(all.toReversed());
    expect(await by("sort=createdAt&order=asc")).toEqual(all);
    await app.sql`update datasets set info = 'touched' where id = ${all[2] as number}`;
    expect((await by("sort=updatedAt"))[0]).toBe(all[2]);
  });

  test("names go by code point; ties by id, in the sort's own direction", async () => {
    const user = await app.signUp();
    const made: [string, number][] = [];
    for (const name of ["b", "B", "é", "動", "a", "b", "Z"]) {
      made.push([name, (await app.make("datasets", user.token, { images: [], name })).id]);
    }
    const list = async (query: string) =>
      (await ask(`user_id=${user.id}&${query}`, "datasets", user.token)).body.list.map((r: Json) => [r.name, r.id]);
    const expected = made.toSorted(([a, i], [b, j]) => (a < b ? -1 : a > b ? 1 : i - j));
    expect(await list("sort=name")).toEqual(expected);
    expect(await list("sort=name&order=desc")).toEqual(expected.toReversed());
    await app.sql`update datasets set created_at = now() where user_id = ${user.id}`;
    const newest = await list("sort=createdAt");
    expect(newest).toEqual(made.toReversed());
    expect(await list("sort=createdAt&order=asc")).toEqual(made);
  });
});

describe("every resource's list", () => {
  test.each(resources.map(({ name }) => ({ name })))("$name: total, list and GET agree", async ({ name }) => {
    const id = await sampleOf(name).make(app, { owner, admin }, false);
    const { body } = await ask("pageSize=200", name, admin.token);
    expect(body.total).toBe(body.list.length);
    const detail = (await app.call("GET", `/api/${name}/${id}`, { token: admin.token })).body;
    const listed = body.list.find((row: Json) => (row.id ?? row.name) === id);
    expect(listed).toEqual(detail);
    const byId = await ask(`id=${id}`, name, admin.token);
    expect(byId.body.list).toEqual([detail]);
  });
});

test("a filter by a reference that the viewer may not see finds nothing", async () => {
  const dataset = await app.make("datasets", owner.token, { images: [] });
  const { id } = await app.make("models", owner.token, { dataset_id: dataset.id, public: true });
  const stranger = await app.signUp();
  const find = async (token: string) => (await ask(`dataset_id=${dataset.id}`, "models", token)).body.list;
  expect(await find(stranger.token)).toEqual([]);
  expect((await find(owner.token)).map((row: Json) => row.id)).toEqual([id]);
});

describe("search looks into these fields, and no others", () => {
  const word = "kingfisher";
  const of = {
    users: async (field: string) => {
      const { id, token } = await app.signUp(`${word}s`); // also in the address
      const name = field === "name" ? word : "somebody";
      return (await app.call("PATCH", `/api/users/${id}`, { token, body: { name } })).body.id;
    },
    tags: async () => (await app.make("tags", owner.token, { name: `a ${word}` })).id,
    datasets: async (field: string) => (await app.make("datasets", owner.token, { images: [], [field]: word })).id,
    models: async (field: string) => (await app.makeModel(owner.token, { [field]: word })).id,
    images: async (field: string) => (await app.make("images", owner.token, { prompt: "a lake", [field]: word })).id,
    tasks: async (field: string) =>
      (await app.make("tasks", owner.token, { type: "infer", prompt: "a lake", [field]: word })).id,
  };
  test.each([
    { path: "users", field: "name", isFound: true },
    { path: "users", field: "email", isFound: false },
    { path: "tags", field: "name", isFound: true },
    { path: "datasets", field: "name", isFound: true },
    { path: "datasets", field: "info", isFound: true },
    { path: "models", field: "name", isFound: true },
    { path: "models", field: "trigger_words", isFound: true },
    { path: "models", field: "info", isFound: false },
    { path: "images", field: "name", isFound: true },
    { path: "images", field: "prompt", isFound: true },
    { path: "images", field: "negative_prompt", isFound: false },
    { path: "tasks", field: "name", isFound: true },
    { path: "tasks", field: "negative_prompt", isFound: false },
  ] as const)("$path, $field: $isFound", async ({ path, field, isFound }) => {
    const id = await of[path](field);
    const { body } = await ask(`search=${word}&pageSize=200`, path, admin.token);
    expect(body.list.some((row: Json) => row.id === id)).toBe(isFound);
  });
});

test("total and list are of one moment while others write", async () => {
  const user = await app.signUp("busy");
  const add = async () => (await app.make("datasets", user.token, { images: [], tags: ["churn"] })).id as number;
  for (let i = 0; i < 4; i += 1) await add();
  let isDone = false;
  const churn = async () => {
    while (!isDone) {
      const [row] = await app.sql<{ id: number }[]>`
        insert into datasets (name, images, user_id, tag_ids)
        select 'churn', '{}', ${user.id}, tag_ids(array['churn'])
        returning id
      `;
      await app.sql`delete from datasets where id = ${row?.id as number}`;
    }
  };
  const writers = [churn(), churn()];
  const queries = ["tag=churn", `user_id=${user.id}&pageSize=5&page=2`, `user_id=${user.id}&tag=churn`, "search=churn"];
  try {
    for (let i = 0; i < 120; i += 1) {
      const { body } = await ask(queries[i % queries.length] as string, "datasets", user.token);
      const { page, page_size, total, next, list } = body as Json;
      const left = Math.max(0, total - (page - 1) * page_size);
      expect({ listed: list.length, next }).toEqual({ listed: Math.min(page_size, left), next: left > page_size });
    }
  } finally {
    isDone = true;
    await Promise.all(writers);
  }
});

/** The contract's rules of objects, bodies and lists, for every resource of the registry. */
import { describe, expect, test } from "bun:test";
import { builtinCatalogue } from "../../src/params/catalogue.ts";
import { resources } from "../../src/resources/index.ts";
import type { Resource } from "../../src/rest/define.ts";
import { type Answer, type CallOptions, type Json, startApp } from "../helpers/app.ts";
import { sampleOf } from "../helpers/samples.ts";

const allowedOrigin = "https://studio.example";
const app = await startApp({ allowedOrigins: [allowedOrigin] });
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

const all = resources as readonly Resource[];
const named = (some: readonly Resource[]) => some.map((resource) => ({ name: resource.name, resource }));
const every = named(all);
const created = named(all.filter(({ create }) => create));
const patched = named(all.filter(({ patch }) => patch));
const removed = named(all.filter(({ remove }) => remove));
/** Seen by others than admins and the owner, so that they can be refused to write. */
const owned = named(all.filter(({ lists }) => lists?.isOwned));

const as = (method: string, path: string, options: CallOptions = {}) =>
  app.call(method, path, { token: admin.token, ...options });
const make = async (name: string, isPublic = false) =>
  `/api/${name}/${await sampleOf(name).make(app, { owner, admin }, isPublic)}`;
/** By someone who may, whose references they are. */
const post = async (name: string, change: Json = {}) => {
  const body = await sampleOf(name).post?.(app, { as: admin, owner });
  return as("POST", `/api/${name}`, { body: { ...body, ...change } });
};
const pointersOf = ({ body }: Answer): string[] => body.errors.map((error: Json) => error.pointer);

/** What PATCH changes, and to what. */
function changeOf(name: string): Json {
  if (name === "params") return { value: { seed: { default: Math.floor(Math.random() * 1e9) } } };
  if (name === "sessions") return { status: "revoked" };
  return { name: `Changed ${name} ${Math.random()}` };
}

describe("JSON in UTF-8, snake_case fields, times in RFC 3339 UTC, ids positive integers or texts", () => {
  test.each(every)("$name", async ({ name, resource }) => {
    const answer = await as("GET", await make(name));
    expect(answer.headers.get("content-type")).toMatch(/^application\/json(; ?charset=utf-8)?$/i);
    const fields = Object.keys(answer.body);
    expect(fields.filter((field) => !/^[a-z][a-z0-9]*(_[a-z0-9]+)*$/.test(field))).toEqual([]);
    for (const field of fields.filter((field) => field.endsWith("_at") && answer.body[field] !== null)) {
      expect(answer.body[field]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    }
    if (resource.id === "integer") expect(answer.body.id).toBeInteger();
    else expect(answer.body.id ?? answer.body.name).toBeString();
  });
});

describe("POST answers 201 with Location and the object, as GET answers it", () => {
  test.each(created.filter(({ name }) => name !== "sessions"))("$name", async ({ name }) => {
    const answer = await post(name);
    const { status, headers, body } = answer;
    expect([status, headers.get("location")]).toEqual([201, `/api/${name}/${body.id}`]);
    const there = await as("GET", `/api/${name}/${body.id}`);
    expect([there.body, there.headers.get("etag")]).toEqual([body, headers.get("etag")]);
  });

  test("sessions, with the token beside", async () => {
    const { status, headers, body } = await post("sessions");
    const { token, ...session } = body;
    expect([status, headers.get("location"), session.current]).toEqual([201, `/api/sessions/${session.id}`, true]);
    expect((await app.call("GET", `/api/sessions/${session.id}`, { token })).body).toEqual(session);
  });
});

describe("POST names what is required, all of it and no more", () => {
  const required: Record<string, string[]> = {
    users: ["/email", "/password"],
    sessions: ["/email", "/password"],
    datasets: ["/images"],
    tags: ["/name"],
    models: ["/dataset_id"],
    images: ["/prompt"],
    tasks: ["/type"],
    servers: ["/name", "/type", "/ip", "/port"],
  };
  test.each(created)("$name", async ({ name }) => {
    const answer = await as("POST", `/api/${name}`, { body: {} });
    expect([answer.status, pointersOf(answer)]).toEqual([422, required[name] as string[]]);
  });
});

describe("names default to a generated one", () => {
  test.each(created.filter(({ resource }) => resource.fields.name && !resource.create?.required.includes("name")))(
    "$name",
    async ({ name }) => expect((await post(name)).body.name).toMatch(/\S/),
  );
});

describe("POST and PATCH refuse unknown fields and fields nobody may write, by name", () => {
  test.each(patched)("$name", async ({ name, resource }) => {
    const path = await make(name);
    const before = await as("GET", path);
    const { create, patch } = resource;
    const refusedBy = (shape?: Json) =>
      ["colour", "version", "revision", "password_hash", ...Object.keys(resource.fields)].filter(
        (field) => !(field in (shape ?? {})),
      );
    const asked = [
      { answer: (body: Json) => as("PATCH", path, { body }), fields: refusedBy(patch?.shape(builtinCatalogue)) },
      ...(create
        ? [{ answer: (body: Json) => post(name, body), fields: refusedBy(create.shape(builtinCatalogue)) }]
        : []),
    ];
    for (const { answer, fields } of asked) {
      const refused = await answer(Object.fromEntries(fields.map((field) => [field, 1])));
      expect([refused.status, pointersOf(refused).sort()]).toEqual([422, fields.map((field) => `/${field}`).sort()]);
    }
    expect((await as("GET", path)).headers.get("etag")).toBe(before.headers.get("etag"));
  });
});

describe("a field that only admins may write is 403 by name", () => {
  const cases = all.flatMap(({ name, create, patch }) => [
    ...(create?.adminFields ?? []).map((field) => ({ name, field, method: "POST" })),
    ...(patch?.adminFields ?? []).map((field) => ({ name, field, method: "PATCH" })),
  ]);
  test.each(cases)("$method $name: $field", async ({ name, field, method }) => {
    const { token } = owner;
    const path = name === "users" ? `/api/users/${owner.id}` : await make(name);
    const answer =
      method === "PATCH"
        ? await app.call("PATCH", path, { token, body: { [field]: 1, colour: "red" } })
        : await app.call("POST", `/api/${name}`, { token, body: { [field]: 1, colour: "red" } });
    expect([answer.status, answer.body.detail]).toEqual([403, expect.stringContaining(field)]);
  });
});

describe("PATCH changes only what is named, and answers the whole object", () => {
  test.each(patched)("$name", async ({ name }) => {
    const path = await make(name);
    const before = await as("GET", path);
    for (const type of ["application/json", "application/merge-patch+json"]) {
      const change = changeOf(name);
      const answer = await as("PATCH", path, { body: JSON.stringify(change), headers: { "Content-Type": type } });
      const moved = {
        updated_at: answer.body.updated_at,
        ...(name === "params" ? { value: answer.body.value } : change),
      };
      expect([answer.status, answer.body]).toEqual([
        200,
        { ...before.body, ...("updated_at" in before.body ? moved : { ...moved, updated_at: undefined }) },
      ]);
      expect((await as("GET", path)).body).toEqual(answer.body);
    }
    const now = await as("GET", path);
    const none = await as("PATCH", path, { body: {} });
    expect([none.status, none.body, none.headers.get("etag")]).toEqual([200, now.body, now.headers.get("etag")]);
  });
});

describe("DELETE answers 204, and then it is gone", () => {
  test.each(removed)("$name", async ({ name }) => {
    const path = await make(name);
    const answer = await as("DELETE", path);
    expect([answer.status, answer.text]).toEqual([204, ""]);
    for (const method of ["GET", "PATCH", "DELETE"]) {
      expect((await as(method, path, { body: method === "PATCH" ? {} : undefined })).status).toBe(404);
    }
  });
});

describe("If-Match on PATCH and DELETE: 412 once another has written, and nothing is changed", () => {
  test.each(patched)("$name", async ({ name, resource }) => {
    const path = await make(name);
    const old = (await as("GET", path)).headers.get("etag") as string;
    const patch = (ifMatch: string) => as("PATCH", path, { body: changeOf(name), headers: { "If-Match": ifMatch } });
    const first = await patch(old);
    expect([first.status, first.headers.get("etag") === old]).toEqual([200, false]);
    expect((await patch(old)).status).toBe(412);
    expect((await as("GET", path)).body).toEqual(first.body);
    if (!resource.remove) return;
    const remove = (ifMatch: string) => as("DELETE", path, { headers: { "If-Match": ifMatch } });
    expect((await remove(old)).status).toBe(412);
    expect((await remove(first.headers.get("etag") as string)).status).toBe(204);
  });
});

describe("If-Match bears what moves by itself: progress, counters, what the pool and the probe write", () => {
  const moves: Record<string, string> = {
    models: "update models set progress = 7, uses = uses + 3, hot = 1",
    images: "update images set progress = 50, hot = 1",
    tasks: "update tasks set progress = 50, attempts = 2",
    servers: "update servers set last_seen_at = now(), error = 'gone'",
    sessions: "update sessions set expires_at = now() + interval '3 days'",
  };
  test.each(Object.entries(moves))("%s", async (name, move) => {
    const path = await make(name);
    const etag = (await as("GET", path)).headers.get("etag") as string;
    const id = path.split("/").at(-1) as string;
    await app.sql.unsafe(`${move} where id = $1`, [id]);
    const seen = await as("GET", path);
    expect(seen.headers.get("etag")).not.toBe(etag);
    const answer = await as("PATCH", path, { body: changeOf(name), headers: { "If-Match": etag } });
    expect([answer.status, answer.text]).toEqual([200, answer.text]);
  });
});

describe("faults are judged in one order: each is answered once those before it are mended", () => {
  const huge = "{".repeat(9_000_000);
  const problems = (body: string | undefined, changes: CallOptions["headers"] & { token?: string }) => {
    const { token, ...headers } = changes;
    return { token, body, headers: headers as Record<string, string> };
  };
  test.each(owned)("$name", async ({ name }) => {
    const [hidden, shown, own] = await Promise.all([make(name), make(name, true), make(name)]);
    const stale = { "If-Match": '"other"' };
    const json = { "Content-Type": "application/json" };
    const steps: [number, string, string, ReturnType<typeof problems>][] = [
      [405, "PUT", `${own}?x=1`, problems("{", { Origin: "https://evil.example", token: "wrong", ...stale })],
      [403, "PATCH", `${own}?x=1`, problems("{", { Origin: "https://evil.example", token: "wrong", ...stale })],
      [401, "PATCH", `${own}?x=1`, problems("{", { Origin: allowedOrigin, token: "wrong", ...stale })],
      [415, "PATCH", `${hidden}?x=1`, problems("{", { token: stranger.token, "Content-Type": "text/plain", ...stale })],
      [413, "PATCH", `${hidden}?x=1`, problems(huge, { token: stranger.token, ...json, ...stale })],
      [400, "PATCH", hidden, problems("{", { token: stranger.token, ...json, ...stale })],
      [400, "PATCH", `${hidden}?x=1`, problems('{"name":7}', { token: stranger.token, ...json, ...stale })],
      [404, "PATCH", hidden, problems('{"name":7}', { token: stranger.token, ...json, ...stale })],
      [403, "PATCH", shown, problems('{"name":7}', { token: stranger.token, ...json, ...stale })],
      [422, "PATCH", own, problems('{"name":7}', { token: owner.token, ...json, ...stale })],
      [412, "PATCH", own, problems('{"name":"x"}', { token: owner.token, ...json, ...stale })],
      [200, "PATCH", own, problems('{"name":"x"}', { token: owner.token, ...json })],
    ];
    for (const [status, method, path, options] of steps) {
      const answer = await app.call(method, path, options);
      expect([status, answer.text.slice(0, 200)]).toEqual([answer.status, answer.text.slice(0, 200)]);
    }
  });

  test("429 comes before all of them", async () => {
    const busy = await startApp({ rateLimits: { reads: 1, writes: 1 } });
    const ask = () =>
      busy.call("PUT", "/api/tags?x=1", { token: "wrong", headers: { Origin: "https://evil.example" } });
    expect((await ask()).status).toBe(405);
    const answer = await ask();
    expect([answer.status, Number(answer.headers.get("retry-after")) > 0]).toEqual([429, true]);
  });
});

describe("lists refuse pages, sorts and parameters that there are not, all at once, and say which there are", () => {
  test.each(every)("$name", async ({ name, resource }) => {
    const known = [...Object.keys(resource.filters), ...(resource.isSearchable ? ["search"] : [])];
    const faulty = await as("GET", `/api/${name}?page=0&pageSize=201&sort=colour&order=up&colour=red&public=&id=`);
    expect([faulty.status, faulty.body.code]).toEqual([400, "invalid-query"]);
    const told = new Map<string, string>(faulty.body.errors.map((fault: Json) => [fault.parameter, fault.detail]));
    expect([...told.keys()].sort()).toEqual(["colour", "id", "order", "page", "pageSize", "public", "sort"]);
    for (const parameter of [...known, "page", "pageSize", "sort", "order"])
      expect(told.get("colour")).toContain(parameter);
    for (const sort of Object.keys(resource.sorts)) expect(told.get("sort")).toContain(sort);
    for (const query of ["page=-1", "page=1.5", "pageSize=0", "page=1&page=1", "sort=", "order=asc&order=asc"]) {
      expect([query, (await as("GET", `/api/${name}?${query}`)).status]).toEqual([query, 400]);
    }
  });
});

describe("pages: the defaults, the shape, next, and past the end the true total", () => {
  test.each(every)("$name", async ({ name, resource }) => {
    await make(name);
    if (name !== "params") await make(name);
    const ask = async (query: string) => (await as("GET", `/api/${name}?${query}`)).body;
    const { list, ...head } = await ask("");
    expect(head).toEqual({ page: 1, page_size: 20, total: expect.any(Number), next: head.total > 20 });
    expect(list).toHaveLength(Math.min(20, head.total));
    const { total } = head;
    expect(await ask(`pageSize=1&page=${total}`)).toMatchObject({ next: false, total, list: [expect.anything()] });
    expect(await ask(`pageSize=1&page=${total - 1}`)).toMatchObject({ next: true, total });
    const past = { total, next: false, list: [] };
    expect(await ask(`pageSize=1&page=${total + 1}`)).toEqual({ page: total + 1, page_size: 1, ...past });
    // Far enough to be found from the end.
    for (const order of ["", ...Object.keys(resource.sorts).map((sort) => `sort=${sort}&`)]) {
      const page = 1_000_000_000;
      expect(await ask(`${order}pageSize=200&page=${page}`)).toEqual({ page, page_size: 200, ...past });
    }
  });
});

describe("every sort is total: turned by order to its exact reverse, ties and all, and the same in small pages", () => {
  const cases = all.flatMap((resource) =>
    [null, ...Object.keys(resource.sorts)].map((sort) => ({ name: resource.name, sort, resource })),
  );
  test.each(cases)("$name by $sort", async ({ name, sort, resource }) => {
    const { total } = (await as("GET", `/api/${name}?pageSize=1`)).body;
    if (name !== "params") for (let have = total; have < 3; have += 1) await make(name);
    // Ties, wherever the sort's column can have them.
    const column = sort && resource.sorts[sort]?.by;
    if (sort?.endsWith("At")) await app.sql.unsafe(`update ${name} set ${column} = '2026-01-01'`);
    const ids = async (query: string) =>
      (await as("GET", `/api/${name}?${sort ? `sort=${sort}&` : ""}${query}`)).body.list.map(
        (row: Json) => row.id ?? row.name,
      );
    const usual = await ids("pageSize=200");
    const [up, down] = [await ids("pageSize=200&order=asc"), await ids("pageSize=200&order=desc")];
    expect(up.toReversed()).toEqual(down);
    expect(usual).toEqual(sort === null || resource.sorts[sort]?.direction === "asc" ? up : down);
    expect(new Set(usual).size).toBe(usual.length);
    const small = [];
    for (let page = 1; page <= 3; page += 1) small.push(...(await ids(`pageSize=1&page=${page}`)));
    expect(small).toEqual(usual.slice(0, 3));
  });
});

test("there is a filter for every id, owner, public, tag, enum, reference and name; search in the contract's fields", () => {
  const filtered = [
    ...["id", "user_id", "public", "tags", "type", "status", "base_model", "scheduler"],
    ...["dataset_id", "model_id", "task_id", "server_id", "name"],
  ];
  const missing = all.flatMap(({ name, fields, filters }) =>
    filtered
      .filter((field) => field in fields && !((field === "tags" ? "tag" : field) in filters))
      .map((field) => `${name} by ${field}`),
  );
  expect(missing).toEqual([]);
  const searched = named(all.filter(({ isSearchable }) => isSearchable)).map(({ name }) => name);
  expect(searched.sort()).toEqual(["datasets", "images", "models", "tags", "tasks", "users"]);
});

describe("a sort is for those who see the field: 400 to others", () => {
  const sorts = { createdAt: "created_at", updatedAt: "updated_at", name: "name" };
  const cases = all
    .filter(({ readers }) => readers !== "users")
    .flatMap(({ name, fields }) =>
      Object.entries(sorts)
        .filter(([, field]) => field in fields)
        .map(([sort, field]) => ({ name, sort, isSeen: (fields[field]?.see ?? "everyone") === "everyone" })),
    );
  test.each(cases)("$name by $sort: $isSeen", async ({ name, sort, isSeen }) => {
    const statusOf = async (token?: string) => (await app.call("GET", `/api/${name}?sort=${sort}`, { token })).status;
    expect([await statusOf(), await statusOf(stranger.token)]).toEqual(isSeen ? [200, 200] : [400, 400]);
    expect(await statusOf(admin.token)).toBe(200);
  });
});

describe("every filter finds what has its value and nothing else; a comma unites, repeating intersects", () => {
  const targets = new Map<string, string>();
  const cases = all.flatMap((resource) =>
    Object.entries(resource.filters).map(([filter, { kind }]) => ({ name: resource.name, filter, kind })),
  );
  test.each(cases)("$name by $filter", async ({ name, filter, kind }) => {
    const path = targets.get(name) ?? (await prepare(name));
    targets.set(name, path);
    const { body } = await as("GET", path);
    const value = filter === "tag" ? body.tags[0] : filter === "id" ? (body.id ?? body.name) : body[filter];
    expect(value).not.toBeNull();
    const other = kind === "boolean" ? String(!value) : kind === "enum" ? anotherOf(name, filter, value) : "2000000000";
    const ids = async (...values: string[]) => {
      const query = new URLSearchParams([...values.map((text) => [filter, text]), ["pageSize", "200"]]);
      const answer = await as("GET", `/api/${name}?${query}`);
      expect([answer.status, answer.body.total]).toEqual([200, answer.body.list?.length]);
      return answer.body.list.map((row: Json) => row.id ?? row.name);
    };
    const id = body.id ?? body.name;
    expect(await ids(String(value))).toContain(id);
    expect(await ids(other)).not.toContain(id);
    expect(await ids(`${other},${value}`)).toContain(id);
    expect(await ids(other, String(value))).toEqual([]);
    expect(await ids(`${other},${value}`, String(value))).toContain(id);
  });

  /** With a value in every field that there is a filter for. */
  async function prepare(name: string): Promise<string> {
    if (name === "models") {
      const dataset = await app.make("datasets", owner.token, { images: [] });
      const { id } = await app.make("models", owner.token, { dataset_id: dataset.id, tags: ["夜"] });
      const server = (await make("servers")).split("/").at(-1) as string;
      const { key, hash } = await app.uploadModel(owner.token);
      await app.sql`update models set server_id = ${server}, model_path = ${key}, hash = ${hash} where id = ${id}`;
      return `/api/models/${id}`;
    }
    const path = await make(name);
    if (name === "datasets" || name === "images") await as("PATCH", path, { body: { tags: ["夜"] } });
    if (name !== "images" && name !== "tasks") return path;
    const model = await app.makeModel(owner.token);
    const server = (await make("servers")).split("/").at(-1) as string;
    const id = path.split("/").at(-1) as string;
    await app.sql`update ${app.sql(name)} set model_id = ${model.id} where id = ${id}`;
    if (name === "tasks") await app.sql`update tasks set server_id = ${server} where id = ${id}`;
    return path;
  }

  function anotherOf(name: string, filter: string, value: string): string {
    const field = all.find((resource) => resource.name === name)?.fields[filter];
    const { enum: choices = [] } = (field?.schema.toJSONSchema() ?? {}) as { enum?: string[] };
    return choices.find((choice) => choice !== value) ?? "";
  }
});

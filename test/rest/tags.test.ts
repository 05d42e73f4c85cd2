/** Tags as a resource, and as names on what carries them. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const admin = await app.admin();
const create = (name: unknown) => app.call("POST", "/api/tags", { token: owner.token, body: { name } });

describe("names", () => {
  test.each([
    { given: "  動物 ", kept: "動物" },
    { given: "ＡＢＣ", kept: "ABC" },
    { given: "ｱﾆﾒ", kept: "アニメ" },
    { given: "\u3000寬\u3000", kept: "寬" },
    { given: "x".repeat(60), kept: "x".repeat(60) },
  ])("$given is kept as $kept", async ({ given, kept }) => {
    const answer = await create(given);
    expect([answer.status, answer.body.name]).toEqual([201, kept]);
  });

  test.each(["", "   ", "a,b", "a，b", "x".repeat(61), 7, null])("%p is 422", async (name) => {
    expect((await create(name)).status).toBe(422);
  });

  test("unique without letter case and width, on POST and PATCH", async () => {
    const { body } = await create("Watercolour");
    for (const name of ["watercolour", "WATERCOLOUR", " Watercolour ", "Ｗatercolour"]) {
      const answer = await create(name);
      expect([answer.status, answer.body.code]).toEqual([409, "name-taken"]);
    }
    const other = (await create("Oil")).body;
    const patch = (id: number, name: string) =>
      app.call("PATCH", `/api/tags/${id}`, { token: admin.token, body: { name } });
    expect((await patch(other.id, "WaterColour")).status).toBe(409);
    expect((await patch(body.id, "WaterColour")).body.name).toBe("WaterColour");
  });
});

const carriers: Record<string, () => Promise<Json>> = {
  datasets: () => app.make("datasets", owner.token, { images: [], tags: ["Night", "day"] }),
  models: () => app.makeModel(owner.token, { tags: ["Night", "day"] }),
  images: () => app.make("images", owner.token, { prompt: "x", tags: ["Night", "day"] }),
};

describe.each(Object.keys(carriers))("on %s", (name) => {
  const make = carriers[name] as () => Promise<Json>;
  const get = (id: number) => app.call("GET", `/api/${name}/${id}`, { token: owner.token });
  const find = async (tag: string) =>
    (await app.call("GET", `/api/${name}?tag=${tag}`, { token: owner.token })).body.list.map((row: Json) => row.id);
  const tagId = async (tag: string) => (await app.call("GET", `/api/tags?name=${tag}`)).body.list[0]?.id;

  test("written and shown as names: in order, once each, as they were first spelled", async () => {
    const { id } = await make();
    const patch = async (tags: unknown) =>
      app.call("PATCH", `/api/${name}/${id}`, { token: owner.token, body: { tags } });
    expect((await patch(["day", "NIGHT", "new one", "Day", " new one "])).body.tags).toEqual([
      "day",
      "Night",
      "new one",
    ]);
    expect(await tagId("new%20one")).toBeNumber();
    expect((await patch([])).body.tags).toEqual([]);
    expect((await patch(["a,b"])).status).toBe(422);
    expect((await patch("day")).status).toBe(422);
    expect((await patch(null)).status).toBe(422);
  });

  test("a new name shows everywhere and moves the ETag; the old one finds nothing", async () => {
    const { id } = await make();
    const before = await get(id);
    const tag = await tagId("Night");
    const renamed = `Night ${name}`;
    await app.call("PATCH", `/api/tags/${tag}`, { token: admin.token, body: { name: renamed } });
    const after = await get(id);
    expect(after.body.tags).toEqual([renamed, "day"]);
    expect(after.headers.get("etag")).not.toBe(before.headers.get("etag"));
    expect(await find("Night")).toEqual([]);
    expect(await find(renamed)).toContain(id);
    const stale = await app.call("PATCH", `/api/${name}/${id}`, {
      token: owner.token,
      body: { name: "x" },
      headers: { "If-Match": before.headers.get("etag") as string },
    });
    expect(stale.status).toBe(412);
  });

  test("a deleted one comes off everything", async () => {
    const { id } = await make();
    await app.call("DELETE", `/api/tags/${await tagId("Night")}`, { token: admin.token });
    expect((await get(id)).body.tags).toEqual(["day"]);
  });
});

test("a hundred writers of the same new name make one tag", async () => {
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, i) =>
      app.call("POST", "/api/datasets", { token: owner.token, body: { images: [], tags: [i % 2 ? "Rush" : "rush"] } }),
    ),
  );
  expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([201]));
  const names = new Set(answers.map((answer) => answer.body.tags[0]));
  expect(names.size).toBe(1);
});

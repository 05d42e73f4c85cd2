/** References: to what the caller may see only, when they are written; null to those who may not, when they are shown. */
import { describe, expect, test } from "bun:test";
import { type Account, type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

/** What is referred to: made by the owner, private or public, and what names nothing. */
interface Target {
  make(isPublic: boolean): Promise<Json>;
  missing: Json;
  /** Others may load it through the public object, and are to upload it as their own. */
  isKept?: boolean;
}
const dataset: Target = {
  make: async (isPublic) => (await app.make("datasets", owner.token, { images: [], public: isPublic })).id,
  missing: 2_000_000_000,
};
const model: Target = {
  make: async (isPublic) => (await app.makeModel(owner.token, { public: isPublic })).id,
  missing: 2_000_000_000,
};
const modelFile: Target = {
  async make(isPublic) {
    const { url } = await app.uploadModel(owner.token);
    if (isPublic) await app.make("models", owner.token, { file: url, public: true });
    return new URL(url).pathname;
  },
  missing: "/api/files/none.safetensors",
  isKept: true,
};
const picture: Target = {
  async make(isPublic) {
    const { url } = await app.upload(owner.token);
    if (isPublic) await app.make("datasets", owner.token, { images: [url], public: true });
    return new URL(url).pathname;
  },
  missing: "/api/files/none.png",
};
const image: Target = {
  async make(isPublic) {
    const { id } = await app.make("images", owner.token, { prompt: "a lake", public: isPublic });
    const { key } = await app.upload(owner.token);
    await app.sql`update images set status = 'success', file_key = ${key} where id = ${id}`;
    return `/api/images/${id}`;
  },
  missing: "/api/images/2000000000",
};

describe("a reference to what the caller may not see is 422 exactly as if it did not exist", () => {
  type Case = { name: string; pointer: string; to: Target; body: (reference: Json) => Json };
  const one = (name: string, field: string, to: Target, rest: Json = {}): Case => ({
    name,
    pointer: `/${field}`,
    to,
    body: (reference) => ({ ...rest, [field]: reference }),
  });
  const pictures = (target: Target, rest: Json = {}): Case => ({
    name: "datasets",
    pointer: "/images/0",
    to: target,
    body: (reference) => ({ ...rest, images: [reference] }),
  });
  const infer = { type: "infer", prompt: "x" };
  const posts = [
    one("models", "dataset_id", dataset),
    one("models", "file", modelFile),
    pictures(picture),
    pictures(image),
    one("images", "model_id", model, { prompt: "x" }),
    one("images", "from_image", picture, { prompt: "x" }),
    one("images", "from_image", image, { prompt: "x" }),
    one("tasks", "model_id", model, infer),
    one("tasks", "from_image", picture, infer),
    one("tasks", "dataset_id", dataset, { type: "train" }),
  ];
  const patches = [pictures(picture), pictures(image), one("models", "image", picture), one("models", "image", image)];
  const cases = [
    ...posts.map((one) => ({ ...one, method: "POST" })),
    ...patches.map((one) => ({ ...one, method: "PATCH" })),
  ];
  test.each(cases)("$method $name $pointer", async ({ method, name, pointer, to, body }) => {
    const mine = name === "models" ? await app.makeModel(stranger.token) : null;
    const path =
      method === "POST"
        ? `/api/${name}`
        : `/api/${name}/${(mine ?? (await app.make(name, stranger.token, { images: [] }))).id}`;
    const send = (reference: Json) => app.call(method, path, { token: stranger.token, body: body(reference) });
    const reference = await to.make(false);
    const [hidden, missing] = [await send(reference), await send(to.missing)];
    expect([hidden.status, hidden.body.errors?.[0].pointer]).toEqual([422, pointer]);
    expect(hidden.text.replaceAll(String(reference), "IT")).toBe(missing.text.replaceAll(String(to.missing), "IT"));
    const seen = await send(await to.make(true));
    expect([seen.status < 300, seen.text]).toEqual([!to.isKept, seen.text]);
  });
});

describe("inside a public object what is private is null to those who may not see it, in details, lists and answers", () => {
  const task = { type: "infer", prompt: "x", public: true };
  const cases: { name: string; field: string; make: () => Promise<Json> }[] = [
    {
      name: "images",
      field: "model_id",
      make: async () =>
        app.make("images", owner.token, { prompt: "x", public: true, model_id: await model.make(false) }),
    },
    {
      name: "images",
      field: "from_image",
      make: async () =>
        app.make("images", owner.token, { prompt: "x", public: true, from_image: await picture.make(false) }),
    },
    {
      name: "models",
      field: "dataset_id",
      make: async () => app.make("models", owner.token, { public: true, dataset_id: await dataset.make(false) }),
    },
    {
      name: "tasks",
      field: "model_id",
      make: async () => app.make("tasks", owner.token, { ...task, model_id: await model.make(false) }),
    },
    { name: "tasks", field: "params", make: () => app.make("tasks", owner.token, task) },
    {
      name: "tasks",
      field: "webhook",
      make: () => app.make("tasks", owner.token, { ...task, webhook: "https://example.com/" }),
    },
    { name: "datasets", field: "report", make: () => app.make("datasets", owner.token, { images: [], public: true }) },
  ];
  test.each(cases)("$name $field", async ({ name, field, make }) => {
    const { id } = await make();
    const seenBy = async (who?: Account) => {
      const token = who?.token;
      const one = (await app.call("GET", `/api/${name}/${id}`, { token })).body[field];
      const [listed] = (await app.call("GET", `/api/${name}?id=${id}`, { token })).body.list;
      expect(listed[field]).toEqual(one);
      return one;
    };
    expect(await seenBy(owner)).not.toBeNull();
    expect(await seenBy(admin)).not.toBeNull();
    expect([await seenBy(stranger), await seenBy()]).toEqual([null, null]);
  });

  test("images of a public task that have been made private", async () => {
    const { id, image_ids } = await app.make("tasks", owner.token, { ...task, count: 2 });
    await app.sql`update images set public = false where id = ${image_ids[0]}`;
    const idsOf = async (token?: string) => (await app.call("GET", `/api/tasks/${id}`, { token })).body.image_ids;
    await app.sql`update tasks set public = true where id = ${id}`;
    expect(await idsOf(owner.token)).toEqual(image_ids);
    expect(await idsOf(stranger.token)).toEqual(image_ids.slice(1));
  });
});

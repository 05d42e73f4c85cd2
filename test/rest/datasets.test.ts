/** Data sets: which pictures they take, and how they show them. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");

const post = (body: Json, token = owner.token) => app.call("POST", "/api/datasets", { token, body });
const bare = (url: string) => url.split("?")[0] as string;

test("without more, a data set is empty, private and named", async () => {
  const { status, body } = await post({ images: [] });
  expect(status).toBe(201);
  expect(body).toEqual({
    id: expect.any(Number),
    name: expect.stringMatching(/./),
    info: "",
    images: [],
    image_count: 0,
    cover: null,
    captions: {},
    report: [],
    public: false,
    tags: [],
    user_id: owner.id,
    created_at: expect.any(String),
    updated_at: expect.any(String),
  });
});

describe("own pictures are recognised however they are written", () => {
  const forms: [string, (url: string) => string][] = [
    ["as shown, with its signature", (url) => url],
    ["absolute, without", bare],
    ["relative", (url) => new URL(url).pathname],
    ["relative, with a stale signature", (url) => `${new URL(url).pathname}?expires=1&signature=x`],
  ];
  test.each(forms)("%s", async (_how, write) => {
    const { url } = await app.upload(owner.token);
    const { status, body } = await post({ images: [write(url)] });
    expect(status).toBe(201);
    expect(body.images.map(bare)).toEqual([bare(url)]);
    expect(body).toMatchObject({ image_count: 1, cover: body.images[0] });
    const loaded = await app.fetch(new Request(body.images[0]));
    expect(loaded.status).toBe(200);
  });

  test("by the origin that the request came to", async () => {
    const { url } = await app.upload(owner.token);
    const request = new Request("http://other-name.test/api/datasets", {
      method: "POST",
      headers: { Authorization: `Bearer ${owner.token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ images: [`http://other-name.test${new URL(url).pathname}`] }),
    });
    const body: Json = await (await app.fetch(request)).json();
    expect(body.images.map(bare)).toEqual([bare(url)]);
  });

  test("the same picture is kept once, the order stays", async () => {
    const [a, b] = await Promise.all([app.upload(owner.token), app.upload(owner.token)]);
    const { body } = await post({ images: [b.url, a.url, bare(b.url), new URL(a.url).pathname] });
    expect(body.images.map(bare)).toEqual([bare(b.url), bare(a.url)]);
  });
});

describe("what a data set refuses", () => {
  const say = async (images: string[]) => {
    const { status, body } = await post({ images });
    return { status, errors: body.errors };
  };

  test("a stranger's private upload, exactly as a missing one", async () => {
    const { url } = await app.upload(stranger.token);
    const hidden = await say([new URL(url).pathname]);
    const missing = await say(["/api/files/no-such-file.png"]);
    const signed = await say([url]);
    expect(hidden).toEqual({ status: 422, errors: [{ pointer: "/images/0", detail: expect.any(String) }] });
    expect(missing).toEqual(hidden);
    expect(signed).toEqual(hidden);
  });

  test("a model file is no picture", async () => {
    const { url } = await app.uploadModel(owner.token);
    expect((await say([url])).status).toBe(422);
  });

  test.each([
    "http://127.0.0.1/a.png",
    "http://localhost/a.png",
    "http://localhost./a.png",
    "http://x.localhost/a.png",
    "http://10.0.0.1/a.png",
    "http://172.16.0.1/a.png",
    "http://192.168.1.1/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/a.png",
    "http://0.0.0.0/a.png",
    "http://127.1/a.png",
    "http://2130706433/a.png",
    "http://0x7f000001/a.png",
    "http://0177.0.0.1/a.png",
    "http://[::1]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[fe80::1]/a.png",
    "http://[fd00::1]/a.png",
    "http://[64:ff9b::7f00:1]/a.png",
    "http://user:pass@example.com/a.png",
    "ftp://example.com/a.png",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:image/png;base64,AAAA",
    "//example.com/a.png",
    "no url",
    "",
    "/api/datasets/1",
    "/etc/passwd",
  ])("%p", async (url) => {
    const answer = await say([url]);
    expect([answer.status, answer.errors?.[0]?.pointer]).toEqual([422, "/images/0"]);
  });

  test("every faulty picture is named", async () => {
    const { errors } = await say(["http://127.0.0.1/", "https://example.com/a.png", "/api/files/none.png"]);
    expect(errors.map((error: Json) => error.pointer)).toEqual(["/images/0", "/images/2"]);
  });
});

test("public addresses are taken as they are, unfetched", async () => {
  const images = ["https://example.com/a.png", "http://93.184.216.34/b.png?x=1"];
  const { status, body } = await post({ images });
  expect([status, body.images]).toEqual([201, images]);
});

test("a picture of an image that the caller may see is taken by the image's address", async () => {
  const { hash } = await app.upload(owner.token);
  const [file] = await app.sql<{ key: string }[]>`select key from files where hash = ${hash} and user_id = ${owner.id}`;
  const image = await app.make("images", owner.token, { prompt: "x" });
  const key = file?.key as string;
  await app.sql`update images set file_key = ${key}, status = 'success', progress = 100 where id = ${image.id}`;
  const take = (token: string) => post({ images: [`/api/images/${image.id}`] }, token);
  expect((await take(owner.token)).body.images.map(bare)).toEqual([`${app.config.publicUrl}/api/files/${key}`]);
  expect((await take(stranger.token)).status).toBe(422);
  await app.sql`update images set public = true where id = ${image.id}`;
  expect((await take(stranger.token)).body.images).toEqual([`${app.config.publicUrl}/api/files/${key}`]);
});

describe("captions", () => {
  test("go by any form of a picture's address; null takes one away; a removed picture takes its own along", async () => {
    const [a, b] = await Promise.all([app.upload(owner.token), app.upload(owner.token)]);
    const created = await post({
      images: [a.url, b.url],
      captions: { [a.url]: "one", [new URL(b.url).pathname]: "two" },
    });
    const [shownA, shownB] = created.body.images;
    expect(created.body.captions).toEqual({ [shownA]: "one", [shownB]: "two" });
    const patch = async (body: Json) =>
      app.call("PATCH", `/api/datasets/${created.body.id}`, { token: owner.token, body });
    const texts = async (change: Json) => {
      const { images, captions } = (await patch(change)).body;
      expect(images).toEqual(expect.arrayContaining(Object.keys(captions)));
      return images.flatMap((url: string) => captions[url] ?? []);
    };
    expect(await texts({ captions: { [bare(a.url)]: "first" } })).toEqual(["first", "two"]);
    expect(await texts({ captions: { [bare(b.url)]: null } })).toEqual(["first"]);
    expect(await texts({ images: [b.url] })).toEqual([]);
    const foreign = await patch({ captions: { [a.url]: "gone" } });
    expect([foreign.status, foreign.body.errors[0].detail]).toEqual([422, "is not one of the images"]);
  });
});

test("PATCH changes only what is named, and counts", async () => {
  const files = await Promise.all([1, 2, 3].map(() => app.upload(owner.token)));
  const { id } = (await post({ images: [], info: "kept" })).body;
  const { body } = await app.call("PATCH", `/api/datasets/${id}`, {
    token: owner.token,
    body: { images: files.map((file) => file.url), tags: ["new"] },
  });
  expect(body).toMatchObject({ info: "kept", image_count: 3, tags: ["new"], cover: body.images[0] });
});

test("a data set that a training still reads is 409", async () => {
  const { id } = (await post({ images: [] })).body;
  const model = await app.make("models", owner.token, { dataset_id: id });
  const remove = () => app.call("DELETE", `/api/datasets/${id}`, { token: owner.token });
  const refused = await remove();
  expect([refused.status, refused.body.code]).toEqual([409, "in-use"]);
  await app.call("PATCH", `/api/tasks/${model.task_id}`, { token: owner.token, body: { status: "canceled" } });
  expect((await remove()).status).toBe(204);
  const kept = await app.call("GET", `/api/models/${model.id}`, { token: owner.token });
  expect(kept.body.dataset_id).toBeNull();
});

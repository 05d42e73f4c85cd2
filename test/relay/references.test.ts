/** What a public object shows of others goes out of sight with them, and comes back: for sockets, lists and ETags. */
import { describe, expect, test } from "bun:test";
import { type Json, startApp } from "../helpers/app.ts";
import { addWorker } from "../helpers/pool.ts";
import { eventually, listen } from "../helpers/socket.ts";

const app = await startApp();
const server = await listen(app);
const owner = await app.signUp("owner");
const other = await app.signUp("other");

interface Case {
  what: string;
  /** The public object of `owner` that refers to something of `other`'s, and the other object, public too. */
  make(): Promise<{ refers: string; referred: string }>;
  /** What a stranger sees of the reference. */
  read(object: Json): unknown;
  /** Nothing of it, or the id or a URL. */
  hidden: unknown;
}

const publicModel = () => app.makeModel(other.token, { public: true });
const publicImage = (token: string, fields: object = {}) =>
  app.make("images", token, { prompt: "a lake", public: true, ...fields });

/** Somebody else's public picture, in a data set of its own. */
async function publicPicture() {
  const { url } = await app.upload(other.token);
  const { id } = await app.make("datasets", other.token, { images: [url], public: true });
  return { url: `/api/datasets/${id}`, path: new URL(url).pathname };
}

const cases: Case[] = [
  {
    what: "an image its model",
    async make() {
      const model = await publicModel();
      const image = await publicImage(owner.token, { model_id: model.id });
      return { refers: `images/${image.id}`, referred: `models/${model.id}` };
    },
    read: ({ model_id }) => model_id,
    hidden: null,
  },
  {
    what: "a task its model",
    async make() {
      const model = await publicModel();
      const image = await publicImage(owner.token, { model_id: model.id });
      return { refers: `tasks/${image.task_id}`, referred: `models/${model.id}` };
    },
    read: ({ model_id }) => model_id,
    hidden: null,
  },
  {
    what: "a model its data set",
    async make() {
      const dataset = await app.make("datasets", other.token, { images: [], public: true });
      const model = await app.make("models", owner.token, { dataset_id: dataset.id, public: true });
      return { refers: `models/${model.id}`, referred: `datasets/${dataset.id}` };
    },
    read: ({ dataset_id }) => dataset_id,
    hidden: null,
  },
  {
    what: "an image what it starts from",
    async make() {
      const { url, path } = await publicPicture();
      const image = await publicImage(owner.token, { from_image: path });
      return { refers: `images/${image.id}`, referred: url.slice("/api/".length) };
    },
    read: ({ from_image }) => from_image,
    hidden: null,
  },
  {
    what: "a model its cover",
    async make() {
      const { url, path } = await publicPicture();
      const model = await app.makeModel(owner.token, { public: true });
      await app.call("PATCH", `/api/models/${model.id}`, { token: owner.token, body: { image: path } });
      return { refers: `models/${model.id}`, referred: url.slice("/api/".length) };
    },
    read: ({ image }) => image,
    hidden: null,
  },
  {
    what: "a data set its pictures",
    async make() {
      const { url, path } = await publicPicture();
      const dataset = await app.make("datasets", owner.token, { images: [path], public: true });
      return { refers: `datasets/${dataset.id}`, referred: url.slice("/api/".length) };
    },
    read: ({ images }) => images,
    hidden: [null],
  },
];

describe("what a public object refers to", () => {
  test.each(cases)("$what", async ({ make, read, hidden }) => {
    const { refers, referred } = await make();
    const [name = "", id = ""] = refers.split("/");
    const publish = (isPublic: boolean) =>
      app.call("PATCH", `/api/${referred}`, { token: other.token, body: { public: isPublic } });
    const ask = (etag = "") => app.call("GET", `/api/${refers}`, { headers: { "If-None-Match": etag } });
    const isHidden = (object: Json) => Bun.deepEquals(read(object), hidden);
    const [watch, list] = await Promise.all([server.watch(refers), server.watch(`${name}?id=${id}`)]);
    expect(isHidden(watch.state)).toBe(false);
    const { version } = watch.frames[0] as Json;
    let etag = (await ask()).headers.get("etag") as string;
    expect((await ask(etag)).status).toBe(304);

    for (const isPublic of [false, true]) {
      const told = list.next(
        (frame: Json) => frame.type === "update" && read(frame.data) !== undefined && isHidden(frame.data) !== isPublic,
      );
      expect((await publish(isPublic)).status).toBe(200);
      await watch.until((state) => isHidden(state) !== isPublic);
      await told;
      const answer = await ask(etag);
      expect(answer.status).toBe(200);
      expect(isHidden(answer.body)).toBe(!isPublic);
      expect(watch.state).toEqual(answer.body);
      expect(answer.headers.get("etag")).not.toBe(etag);
      etag = answer.headers.get("etag") as string;
    }
    expect((watch.frames.at(-1) as Json).version).toBeGreaterThan(version);
    await Promise.all([watch.close(), list.close()]);
  });
});

test("an image goes out of sight of its task, its task of the other images", async () => {
  const task = await app.make("tasks", owner.token, { type: "infer", prompt: "a lake", count: 2, public: true });
  const [first, second] = task.image_ids;
  const [sibling, mine] = await Promise.all([
    server.watch(`images/${second}`),
    server.watch(`tasks/${task.id}`, { token: owner.token }),
  ]);
  expect(sibling.state.task_id).toBe(task.id);
  const ask = (etag = "") =>
    app.call("GET", `/api/tasks/${task.id}`, { token: owner.token, headers: { "If-None-Match": etag } });
  const etag = (await ask()).headers.get("etag") as string;
  expect((await ask(etag)).status).toBe(304);
  await app.call("PATCH", `/api/images/${first}`, { token: owner.token, body: { public: false } });
  await sibling.until(({ task_id }) => task_id === null);
  await app.call("DELETE", `/api/images/${first}`, { token: owner.token });
  await mine.until(({ image_ids }) => Bun.deepEquals(image_ids, [second]));
  expect((await ask(etag)).body.image_ids).toEqual([second]);
});

test("a list by a model loses its objects with the model", async () => {
  const model = await publicModel();
  const image = await publicImage(owner.token, { model_id: model.id });
  const list = await server.watch(`images?model_id=${model.id}`);
  expect(list.state.list).toHaveLength(1);
  const gone = list.next((frame) => frame.type === "delete");
  await app.call("PATCH", `/api/models/${model.id}`, { token: other.token, body: { public: false } });
  expect(await gone).toMatchObject({ id: image.id });
});

test("so many images that they are not touched one by one leave it out at once, and their ETags a moment later", async () => {
  const model = await publicModel();
  const { id } = await publicImage(owner.token, { model_id: model.id });
  await app.sql`
    insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
      status, public, user_id, model_id)
    select 'one of many', 64, 64, 'p', 1, 7, 'DDIM', n, 'SD1.5', 'error', true, ${owner.id}, ${model.id}
    from generate_series(1, 450) n
  `;
  const watch = await server.watch(`images/${id}`);
  const etag = (await app.call("GET", `/api/images/${id}`)).headers.get("etag") as string;
  const versions = () => app.sql`select id from images where model_id = ${model.id} and version > 1`;
  const before = (await versions()).length;
  await app.call("PATCH", `/api/models/${model.id}`, { token: other.token, body: { public: false } });
  await watch.until(({ model_id }) => model_id === null);
  expect(await versions()).toHaveLength(before);
  const worker = await addWorker(app);
  await eventually(versions, (moved) => moved.length === 451);
  const answer = await app.call("GET", `/api/images/${id}`, { headers: { "If-None-Match": etag } });
  expect([answer.status, answer.body.model_id]).toEqual([200, null]);
  await worker.stop();
});

test("a file that leaves a public data set goes out of sight of those who start from it", async () => {
  const { url, path } = await publicPicture();
  const image = await publicImage(owner.token, { from_image: path });
  const watch = await server.watch(`images/${image.id}`);
  await app.call("PATCH", url, { token: other.token, body: { images: [] } });
  await watch.until(({ from_image }) => from_image === null);
  await app.call("PATCH", url, { token: other.token, body: { images: [path] } });
  await watch.until(({ from_image }) => from_image !== null);
  await app.call("DELETE", url, { token: other.token });
  await watch.until(({ from_image }) => from_image === null);
});

/** Preparing: which pictures of a data set can be used, and what is said of the others. */
import { afterAll, expect, test } from "bun:test";
import { createPrepareTask } from "../../jobs/prepare-task.ts";
import { temporaryDirectory } from "../../src/storage/index.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { makePicture } from "../helpers/files.ts";

const app = await startApp();
const owner = await app.signUp();

/** The world outside: it answers only once several ask at the same time, for a while. */
const open = { now: 0, most: 0 };
const pictures = await Promise.all(Array.from({ length: 95 }, () => makePicture({ width: 40, height: 40 })));
const thin = await makePicture({ width: 400, height: 20 });
const world = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    open.now += 1;
    open.most = Math.max(open.most, open.now);
    await new Promise((resolve) => setTimeout(resolve, 1));
    open.now -= 1;
    const name = new URL(request.url).pathname.slice(1);
    if (name === "thin") return new Response(new Uint8Array(thin));
    if (name === "text") return new Response("<html>no picture</html>");
    if (name === "large") return new Response(new Uint8Array(3_000));
    const picture = pictures[Number(name)];
    return picture ? new Response(new Uint8Array(picture)) : new Response(null, { status: 404 });
  },
});
afterAll(() => world.stop(true));

const host = "pictures.example";
const faulty = [
  { url: `http://${host}:${world.port}/gone`, status: "unreachable" },
  { url: `http://${host}:${world.port}/thin`, status: "too small" },
  { url: `http://${host}:${world.port}/text`, status: "not an image" },
  { url: `http://${host}:${world.port}/large`, status: "too large" },
  { url: "http://inside.example/a.png", status: "forbidden" },
];

const prepare = createPrepareTask({
  ...app,
  temporaryDirectory: temporaryDirectory(app.config),
  workerId: "w",
  stopping: new AbortController().signal,
  webhooks: { addressesOf: async () => [] },
  userQuotaBytes: 1_000_000,
  remote: {
    maxBytes: 2_000,
    isAllowedPort: (port) => [80, world.port].includes(port),
    resolve: async (name) => [name === host ? "127.0.0.1" : "10.0.0.1"],
    isAllowedAddress: (address) => address === "127.0.0.1",
  },
});

async function train(images: string[], captions: Json = {}, who = owner): Promise<Json> {
  const dataset = await app.make("datasets", who.token, { images, captions });
  const model = await app.make("models", who.token, { dataset_id: dataset.id, trigger_words: "words" });
  await prepare({ task_id: model.task_id });
  const get = async (path: string) => (await app.call("GET", `/api/${path}`, { token: who.token })).body;
  const [row] = await app.sql<Json[]>`select manifest, input_keys from tasks where id = ${model.task_id}`;
  return { task: await get(`tasks/${model.task_id}`), report: (await get(`datasets/${dataset.id}`)).report, ...row };
}

test("of a hundred remote pictures five cannot be used: the training goes on with the others, and says so", async () => {
  const good = pictures.map((_, n) => `http://${host}:${world.port}/${n}`);
  const first = good[0] as string;
  const images = [...good.slice(0, 40), ...faulty.map(({ url }) => url), ...good.slice(40)];
  const { task, report, manifest, input_keys } = await train(images, { [first]: "a caption of its own" });
  expect(task.status).toBe("waiting");
  expect(report.map(({ url }: Json) => url)).toEqual(images);
  expect(report.filter(({ status }: Json) => status !== "ok")).toMatchObject(faulty);
  expect(report.filter(({ status }: Json) => status === "ok")).toHaveLength(95);
  expect(manifest.map(({ url }: Json) => url)).toEqual(good);
  expect(manifest.slice(0, 2).map(({ caption }: Json) => caption)).toEqual(["a caption of its own", "words"]);
  const files = await app.sql<
    { key: string; hash: string }[]
  >`select key, hash from files where key = any (${input_keys})`;
  expect(new Map(files.map(({ key, hash }) => [key, hash]))).toEqual(
    new Map(manifest.map(({ key, hash }: Json) => [key, hash])),
  );
  expect(files).toHaveLength(95);
  expect(open.most).toBeGreaterThan(1);
});

test("when none can be used it ends with the reason", async () => {
  const { task, report } = await train(faulty.map(({ url }) => url));
  expect(task).toMatchObject({ status: "error", attempts: 0, error: { class: "bad-input" } });
  expect(task.error.detail).toContain("None of the 5 pictures");
  expect(report.map(({ status }: Json) => status)).toEqual(faulty.map(({ status }) => status));
});

test("another's training of a public data set leaves its report alone, and counts the verdicts on its own task", async () => {
  const { id } = await app.make("datasets", owner.token, {
    images: [`http://${host}:${world.port}/1`, ...faulty.map(({ url }) => url)],
    public: true,
  });
  const other = await app.signUp();
  const admin = await app.admin();
  const get = async (path: string, token?: string) => (await app.call("GET", `/api/${path}`, { token })).body;
  const pictures = { ok: 1, ...Object.fromEntries(faulty.map(({ status }) => [status, 1])) };
  for (const [who, count] of [
    [other, 0],
    [admin, 0],
    [owner, 6],
  ] as const) {
    const { task_id } = await app.make("models", who.token, { dataset_id: id, public: true });
    await prepare({ task_id });
    expect((await get(`datasets/${id}`, owner.token)).report).toHaveLength(count);
    expect(await get(`tasks/${task_id}`, who.token)).toMatchObject({ status: "waiting", pictures });
    expect(await get(`tasks/${task_id}`)).toMatchObject({ status: "waiting", pictures: null });
  }
});

test("stored pictures are judged too, and remote ones count against the quota", async () => {
  const user = await app.signUp();
  const small = await app.upload(user.token, thin);
  await app.sql`update files set size = 1000000 where key = ${small.key}`;
  const { report } = await train([small.url, `http://${host}:${world.port}/1`], {}, user);
  expect(report.map(({ status }: Json) => status)).toEqual(["too small", "over quota"]);
});

test("an input that goes while it is judged is judged again", async () => {
  const file = await app.upload(owner.token);
  const other = await app.upload(owner.token);
  const dataset = await app.make("datasets", owner.token, { images: [file.url, other.url] });
  const model = await app.make("models", owner.token, { dataset_id: dataset.id });
  // The manifest is written between the verdicts and the claim on the files: a trigger is the moment in between.
  await app.sql.unsafe(`
    create function lose() returns trigger language plpgsql as $$
    begin delete from files where key = '${file.key}'; return new; end $$;
    create trigger lose after update of manifest on tasks for each row execute function lose();
  `);
  await expect(prepare({ task_id: model.task_id })).rejects.toThrow("deleted while");
  await app.sql`drop trigger lose on tasks`;
  await prepare({ task_id: model.task_id });
  const [row] = await app.sql<Json[]>`select status, input_keys from tasks where id = ${model.task_id}`;
  expect(row).toEqual({ status: "waiting", input_keys: [other.key] });
});

test.each([
  { what: "a data set", name: "datasets", order: (id: number) => ["models", { dataset_id: id }] },
  { what: "a model", name: "models", order: (id: number) => ["images", { prompt: "x", model_id: id }] },
  {
    what: "a picture to start from",
    name: "datasets",
    order: (_id: number, url: string) => ["images", { prompt: "x", from_image: url }],
  },
])(
  "$what that its owner has made private since it was ordered with: the task fails, and says no more",
  async ({ name, order }) => {
    const stranger = await app.signUp();
    const { url } = await app.upload(stranger.token);
    const { id } =
      name === "models"
        ? await app.makeModel(stranger.token, { public: true })
        : await app.make("datasets", stranger.token, { images: [url], public: true });
    const [what, body] = order(id, new URL(url).pathname);
    const { task_id } = await app.make(what as string, owner.token, body);
    await app.call("PATCH", `/api/${name}/${id}`, { token: stranger.token, body: { public: false } });
    await prepare({ task_id });
    const task = (await app.call("GET", `/api/tasks/${task_id}`, { token: owner.token })).body;
    expect([task.status, task.error.class]).toEqual(["error", "bad-input"]);
    const [made] = (await app.call("GET", `/api/${what}?task_id=${task_id}`, { token: owner.token })).body.list;
    expect(made.status).toBe("error");
  },
);

test("a task whose preparation died when it was ready comes to wait all the same", async () => {
  const { task_id } = await app.make("images", owner.token, { prompt: "a lake" });
  await app.sql`update tasks set status = 'ready' where id = ${task_id}`;
  await prepare({ task_id });
  expect(await app.sql`select status from tasks where id = ${task_id}`).toEqual([{ status: "waiting" }] as never);
});

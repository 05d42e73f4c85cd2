/** Pictures from prompts, over the real worker and demo engines. */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import sharp from "sharp";
import type { Account, Json } from "../helpers/app.ts";
import { startPool } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const pool = await startPool({
  engines: [
    { name: "trainer", type: "train" },
    { name: "painter", type: "infer", stepMs: 5 },
  ],
});
const painter = pool.engine("painter");
const owner = await pool.signUp();

const small = { width: 64, height: 64, num_inference_steps: 3 };
/** Some ten seconds' work unless somebody ends it. */
const slow = { width: 64, height: 64, num_inference_steps: 500 };

async function draw(fields: Json, as: Account = owner): Promise<Json> {
  const image = await pool.make("images", as.token, { ...small, prompt: "a lake", ...fields });
  await pool.finished(image.task_id);
  return pool.get(`images/${image.id}`, as.token);
}

async function pixels(image: Json): Promise<Buffer> {
  return sharp(await pool.download(image.url))
    .raw()
    .toBuffer();
}

async function waiting(taskId: number): Promise<void> {
  const watch = await pool.server.watch(`tasks/${taskId}`, { token: pool.admin.token });
  await watch.until(({ status }) => status === "waiting");
  await watch.close();
}

async function running(taskId: number): Promise<void> {
  const watch = await pool.server.watch(`tasks/${taskId}`, { token: pool.admin.token });
  await watch.until(({ status, stage }) => status === "running" && stage === "steps");
  await watch.close();
}

const cancel = (taskId: number) =>
  pool.call("PATCH", `/api/tasks/${taskId}`, { token: owner.token, body: { status: "canceled" } });

test("a picture has the size that was asked for, a thumbnail, and a file of the hash that is served", async () => {
  const image = await draw({ width: 128, height: 64 });
  expect(image).toMatchObject({ status: "success", progress: 100, error: null, width: 128, height: 64 });
  const bytes = await pool.download(image.url);
  expect(await sharp(bytes).metadata()).toMatchObject({ width: 128, height: 64 });
  for (const url of [image.thumbnail, image.thumbnail_small]) {
    expect(await sharp(await pool.download(url)).metadata()).toMatchObject({ format: "webp", width: 128 });
  }
  expect(image.thumbhash).toMatch(/^[\w+/]{20,}=*$/);
  const { list } = await pool.get("files", owner.token);
  const hash = createHash("sha256").update(bytes).digest("hex");
  expect(list.map((file: Json) => file.hash)).toContain(hash);
});

test("what the engine shows while it works reaches those who watch, and is gone with the run", async () => {
  const { id, task_id } = await pool.make("images", owner.token, { ...slow, width: 512, prompt: "a lake" });
  const image = await pool.server.watch(`images/${id}`, { token: owner.token });
  const task = await pool.server.watch(`tasks/${task_id}`, { token: owner.token });
  const { preview: first } = await image.until(({ preview }) => preview !== null);
  expect(await sharp(await pool.download(first)).metadata()).toMatchObject({ format: "webp", width: 256 });
  expect((await pool.fetch(new Request(first.split("?")[0]))).status).toBe(404);
  await task.until(({ preview }) => preview !== null);
  // Another picture, under another URL.
  const { preview: second } = await image.until(({ preview }) => preview !== null && preview !== first);
  await cancel(task_id);
  await Promise.all([image.until(({ preview }) => preview === null), task.until(({ preview }) => preview === null)]);
  expect((await pool.fetch(new Request(second))).status).toBe(404);
  expect(await pool.sql`select from previews`).toHaveLength(0);
});

describe("while a picture is stored", () => {
  /** The storage takes no more until then. */
  function holdStorage(): () => void {
    const { put } = pool.storage;
    const held = Promise.withResolvers<void>();
    pool.storage.put = async (...args) => {
      await held.promise;
      return put(...args);
    };
    return () => {
      pool.storage.put = put;
      held.resolve();
    };
  }
  const made = async (count: number) => {
    const { length } = await painter.history();
    return () => eventually(painter.history, (history) => history.length === length + count);
  };

  test("the engine makes the next task's", async () => {
    const bothMade = await made(2);
    const store = holdStorage();
    const [one, two] = [
      await pool.make("images", owner.token, { ...small, prompt: "a lake" }),
      await pool.make("images", owner.token, { ...small, prompt: "a lake" }),
    ];
    await bothMade();
    expect((await pool.get(`tasks/${one.task_id}`, owner.token)).status).toBe("running");
    store();
    for (const { task_id } of [one, two]) {
      expect(await pool.finished(task_id)).toMatchObject({ status: "success", attempts: 1 });
    }
  });

  test("the engine makes the same task's next one", async () => {
    const bothMade = await made(2);
    const store = holdStorage();
    const task = await pool.make("tasks", owner.token, { ...small, type: "infer", prompt: "a lake", count: 2 });
    await bothMade();
    store();
    expect(await pool.finished(task.id)).toMatchObject({ status: "success", attempts: 1 });
    const { list } = await pool.get(`images?task_id=${task.id}`, owner.token);
    expect(list.map((image: Json) => image.status)).toEqual(["success", "success"]);
  });

  test("its worker may die: another finds what was made, and none of it is made again", async () => {
    const bothMade = await made(2);
    const store = holdStorage();
    const task = await pool.make("tasks", owner.token, { ...small, type: "infer", prompt: "a lake", count: 2 });
    await bothMade();
    // The other run's handle names this one too.
    const handles = () => pool.sql<{ handle: Json }[]>`select handle from leases where task_id = ${task.id}`;
    const [lease] = await eventually(handles, ([row]) => row?.handle?.before != null);
    expect(lease?.handle.before.part).not.toBe(lease?.handle.part);
    const [first] = pool.workers;
    await pool.sql`
      with fenced as (update tasks set lease_epoch = lease_epoch + 1 where id = ${task.id})
      update leases set worker_id = null where task_id = ${task.id}
    `;
    const other = await pool.addWorker();
    expect(other.id).not.toBe(first?.id);
    store();
    expect(await pool.finished(task.id)).toMatchObject({ status: "success", attempts: 1 });
    await bothMade();
    await other.stop();
  });
});

test("the same seed makes the same picture, another seed another", async () => {
  const [one, same, other] = await Promise.all([draw({ seed: 5 }), draw({ seed: 5 }), draw({ seed: 6 })]);
  expect(await pixels(one)).toEqual(await pixels(same));
  expect(await pixels(one)).not.toEqual(await pixels(other));
});

test("a model that was trained here makes a difference, and its uses are counted", async () => {
  const dataset = await pool.makeDataset(owner.token, 2);
  const model = await pool.make("models", owner.token, {
    dataset_id: dataset.id,
    epochs: 10,
    train: { resolution: 64 },
  });
  await pool.finished(model.task_id);
  const without = await draw({ seed: 5 });
  const withModel = await draw({ seed: 5, model_id: model.id });
  expect(withModel).toMatchObject({ status: "success", model_id: model.id, base_model: "SD1.5" });
  expect(await pixels(withModel)).not.toEqual(await pixels(without));
  const used = await eventually(
    () => pool.get(`models/${model.id}`, owner.token),
    ({ uses }) => uses > 0,
  );
  expect(used.uses).toBe(1);
});

test("a picture to start from makes a difference", async () => {
  const { url } = await pool.upload(owner.token);
  const from = await draw({ seed: 5, from_image: url, strength: 0.3 });
  expect(from).toMatchObject({ status: "success", strength: 0.3 });
  expect(await pixels(from)).not.toEqual(await pixels(await draw({ seed: 5 })));
});

test("a task of three makes three pictures with seeds that count up", async () => {
  const task = await pool.make("tasks", owner.token, { type: "infer", count: 3, seed: 10, prompt: "hills", ...small });
  const done = await pool.finished(task.id);
  expect(done).toMatchObject({ status: "success", progress: 100, image_ids: task.image_ids });
  const { list } = await pool.get(`images?task_id=${task.id}`, owner.token);
  expect(list.map((image: Json) => [image.seed, image.status])).toEqual([
    [10, "success"],
    [11, "success"],
    [12, "success"],
  ]);
});

describe("cancel", () => {
  test("ends what runs and what waits, and nothing else; twice is once", async () => {
    const first = await pool.make("images", owner.token, { prompt: "a lake", ...slow });
    await running(first.task_id);
    const [second, third] = await Promise.all(
      [slow, small].map((size) => pool.make("images", owner.token, { prompt: "a lake", ...size })),
    );
    await waiting(second.task_id);
    await waiting(third.task_id);
    for (const { task_id } of [second, first]) {
      expect([(await cancel(task_id)).status, (await cancel(task_id)).status]).toEqual([200, 200]);
    }
    expect((await pool.finished(third.task_id)).status).toBe("success");
    await eventually(painter.queue, (queue) => queue.length === 0);
    await pool.untilServer(painter.serverId, "ready");
    for (const { task_id, id } of [first, second]) {
      expect((await pool.get(`tasks/${task_id}`, owner.token)).status).toBe("canceled");
      expect(await pool.get(`images/${id}`, owner.token)).toMatchObject({
        status: "error",
        error: { class: "canceled" },
        url: null,
      });
    }
  });

  test("keeps the pictures that were finished, and a retry makes only the others", async () => {
    const body = { type: "infer", count: 3, prompt: "hills", width: 64, height: 64, num_inference_steps: 60 };
    const task = await pool.make("tasks", owner.token, body);
    const [firstId, , lastId] = task.image_ids;
    const watch = await pool.server.watch(`images/${firstId}`, { token: owner.token });
    await watch.until(({ status }) => status === "success");
    await cancel(task.id);
    const first = await pool.get(`images/${firstId}`, owner.token);
    expect(first.status).toBe("success");
    expect((await pool.get(`images/${lastId}`, owner.token)).status).toBe("error");
    const again = await pool.call("PATCH", `/api/tasks/${task.id}`, {
      token: owner.token,
      body: { status: "waiting" },
    });
    expect(again.status).toBe(200);
    expect((await pool.finished(task.id)).status).toBe("success");
    expect((await pool.get(`images?task_id=${task.id}&status=success`, owner.token)).total).toBe(3);
    expect((await pool.get(`images/${firstId}`, owner.token)).updated_at).toBe(first.updated_at);
  });

  test("comes too late for what has ended: 409, and success is not tried again", async () => {
    const image = await draw({});
    for (const [status, code] of [
      ["canceled", "conflict"],
      ["waiting", "task-not-retryable"],
    ]) {
      const answer = await pool.call("PATCH", `/api/tasks/${image.task_id}`, { token: owner.token, body: { status } });
      expect([answer.status, answer.body.code]).toEqual([409, code]);
    }
  });
});

describe("delete", () => {
  const remove = (path: string) => pool.call("DELETE", `/api/${path}`, { token: owner.token });

  test("an image takes its bytes along, but not those that another image shares", async () => {
    const [one, same] = await Promise.all([draw({ seed: 77 }), draw({ seed: 77 })]);
    const keys = [one.url, one.thumbnail, one.thumbnail_small].map(
      (url) => new URL(url).pathname.split("/").at(-1) ?? "",
    );
    for (const key of keys) expect(await pool.storage.get(key)).not.toBeNull();
    expect((await remove(`images/${one.id}`)).status).toBe(204);
    await eventually(
      () => pool.sql`select from graphile_worker.jobs where task_identifier = 'delete-files'`,
      (jobs) => jobs.length === 0,
    );
    expect(await pixels(same)).toBeInstanceOf(Buffer);
    await remove(`images/${same.id}`);
    for (const key of keys)
      await eventually(
        () => pool.storage.get(key),
        (found) => found === null,
      );
  });

  test("the only image of a running task ends the task", async () => {
    const image = await pool.make("images", owner.token, { prompt: "a lake", ...slow });
    await running(image.task_id);
    expect((await remove(`images/${image.id}`)).status).toBe(204);
    await eventually(painter.queue, (queue) => queue.length === 0);
    expect((await pool.get(`tasks/${image.task_id}`, owner.token)).status).toBe("canceled");
  });

  test("a running task: its finished picture stays, the unfinished go", async () => {
    const body = { type: "infer", count: 2, prompt: "hills", width: 64, height: 64, num_inference_steps: 100 };
    const task = await pool.make("tasks", owner.token, body);
    const watch = await pool.server.watch(`images/${task.image_ids[0]}`, { token: owner.token });
    await watch.until(({ status }) => status === "success");
    expect((await remove(`tasks/${task.id}`)).status).toBe(204);
    await eventually(painter.queue, (queue) => queue.length === 0);
    expect(await pool.get(`images/${task.image_ids[0]}`, owner.token)).toMatchObject({
      status: "success",
      task_id: null,
    });
    expect((await pool.call("GET", `/api/images/${task.image_ids[1]}`, { token: owner.token })).status).toBe(404);
  });

  test("a model that waiting pictures need: they fail, instead of being made without it", async () => {
    const model = await pool.makeModel(owner.token);
    const blocker = await pool.make("images", owner.token, { prompt: "a lake", ...slow });
    await running(blocker.task_id);
    const image = await pool.make("images", owner.token, { prompt: "a lake", ...small, model_id: model.id });
    await waiting(image.task_id);
    expect((await remove(`models/${model.id}`)).status).toBe(204);
    await cancel(blocker.task_id);
    expect(await pool.finished(image.task_id)).toMatchObject({ status: "error", error: { class: "bad-input" } });
    expect(await pool.get(`images/${image.id}`, owner.token)).toMatchObject({ model_id: null, status: "error" });
  });
});

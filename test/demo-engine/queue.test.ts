import { beforeAll, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import {
  getJson,
  type Json,
  Listener,
  pictureGraph,
  post,
  startEngine,
  trainingGraph,
  uploadDataset,
} from "./client.ts";

const engine = await startEngine();
beforeAll(() => uploadDataset(engine, "flags", "#204080", "#f0e060"));

/** Runs until it is interrupted, for all a test can wait. */
const endless = () => pictureGraph({ steps: 10000, width: 16, height: 16 });

async function queued(): Promise<{ running: string[]; pending: string[] }> {
  const { queue_running, queue_pending } = await getJson(engine, "/queue");
  const id = (item: Json[]) => item[1];
  return { running: queue_running.map(id), pending: queue_pending.map(id) };
}

test.each([
  { what: "a picture", node: "sampler", graph: endless },
  {
    what: "a training",
    node: "train",
    graph: () => trainingGraph("flags", "loras/never/model", { steps: 100000 }),
  },
])("an interrupt ends $what that runs, and the history says so", async ({ node, graph }) => {
  const listener = await Listener.open(engine);
  const id = await listener.post(graph());
  await listener.progressOf(id);
  expect((await post(engine, "/interrupt", { prompt_id: id })).status).toBe(200);
  await listener.endOf(id);
  const { status } = (await getJson(engine, `/history/${id}`))[id];
  expect(status).toMatchObject({ status_str: "error", completed: false });
  const [type, data] = status.messages.at(-1);
  expect(type).toBe("execution_interrupted");
  expect(data).toMatchObject({ prompt_id: id, node_id: node });
});

test("an interrupt for another prompt touches nothing, one without a name takes what runs", async () => {
  const listener = await Listener.open(engine);
  const id = await listener.post(endless());
  await listener.progressOf(id);
  await post(engine, "/interrupt", { prompt_id: randomUUID() });
  const seen = listener.events.length;
  await listener.next((event) => event.type === "progress" && listener.events.indexOf(event) > seen);
  expect((await queued()).running).toEqual([id]);
  await fetch(`${engine.url}/interrupt`, { method: "POST" });
  await listener.endOf(id);
  expect(listener.typesOf(id)).toContain("execution_interrupted");
});

test("deleting a waiting prompt leaves no trace of it and touches no other", async () => {
  const listener = await Listener.open(engine);
  const running = await listener.post(endless());
  const [kept, deleted] = [await listener.post(pictureGraph()), await listener.post(pictureGraph())];
  await listener.progressOf(running);
  expect(await queued()).toEqual({ running: [running], pending: [kept, deleted] });
  // Neither the running prompt nor an unknown one can be deleted.
  await post(engine, "/queue", { delete: [deleted, running, randomUUID()] });
  expect(await queued()).toEqual({ running: [running], pending: [kept] });
  await post(engine, "/interrupt", { prompt_id: running });
  await listener.endOf(kept);
  expect(await getJson(engine, `/history/${deleted}`)).toEqual({});
  expect((await getJson(engine, `/history/${kept}`))[kept].status.status_str).toBe("success");
});

test("waiting prompts go by number, and `front` goes first", async () => {
  const listener = await Listener.open(engine);
  const running = await listener.post(endless());
  await listener.progressOf(running);
  const plain = await listener.post(pictureGraph());
  const late = await listener.post(pictureGraph(), { number: 1e6 });
  const front = await listener.post(pictureGraph(), { front: true });
  const next = await listener.post(pictureGraph());
  expect((await queued()).pending).toEqual([front, plain, next, late]);
  expect(await getJson(engine, "/prompt")).toEqual({ exec_info: { queue_remaining: 5 } });
  await post(engine, "/queue", { clear: true });
  expect(await queued()).toEqual({ running: [running], pending: [] });
  await post(engine, "/interrupt", {});
  await listener.endOf(running);
});

test("the history can be paged, and entries deleted", async () => {
  const listener = await Listener.open(engine);
  await post(engine, "/history", { clear: true });
  const ids: string[] = [];
  for (const seed of [1, 2, 3]) {
    const id = await listener.post(pictureGraph({ seed }));
    await listener.endOf(id);
    ids.push(id);
  }
  const [first, second, third] = ids;
  expect(Object.keys(await getJson(engine, "/history"))).toEqual(ids);
  expect(Object.keys(await getJson(engine, "/history?max_items=1"))).toEqual([third as string]);
  expect(Object.keys(await getJson(engine, "/history?max_items=1&offset=1"))).toEqual([second as string]);
  await post(engine, "/history", { delete: [first] });
  expect(Object.keys(await getJson(engine, "/history"))).toEqual([second as string, third as string]);
});

test("a node that fails ends the prompt with an execution_error that names it", async () => {
  const listener = await Listener.open(engine);
  const id = await listener.post(pictureGraph({ width: 16384, height: 16384 }));
  await listener.endOf(id);
  const { status } = (await getJson(engine, `/history/${id}`))[id];
  expect(status.status_str).toBe("error");
  const [type, data] = status.messages.at(-1);
  expect(type).toBe("execution_error");
  expect(data).toMatchObject({ node_id: "sampler", node_type: "KSampler" });
  expect(data.exception_type).toBe("torch.OutOfMemoryError");
});

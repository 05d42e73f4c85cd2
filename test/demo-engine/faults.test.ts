import { expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import sharp from "sharp";
import type { DemoEngine } from "../../src/demo-engine/server.ts";
import {
  getJson,
  type Json,
  Listener,
  pictureGraph,
  post,
  startEngine,
  temporaryDirectory,
  trainingGraph,
  uploadDataset,
  view,
} from "./client.ts";

const engine = await startEngine({ faults: { seed: 7 }, instant: true });
const arm = (fault: unknown, on: DemoEngine = engine) => post(on, "/faults", fault);
const clear = () => fetch(`${engine.url}/faults`, { method: "DELETE" });
const computed = async (id: string): Promise<Json> => (await getJson(engine, "/faults")).computed[id];
const order = (fault: string, prompt = pictureGraph()) =>
  fetch(`${engine.url}/prompt`, {
    method: "POST",
    headers: { "X-Fault": fault },
    body: JSON.stringify({ prompt, prompt_id: randomUUID() }),
  });
const lastWord = (entry: Json) => entry.status.messages.at(-1);

test("an engine that was started without them knows no faults", async () => {
  const plain = await startEngine();
  expect((await arm({ kind: "refuse" }, plain)).status).toBe(404);
  expect((await fetch(`${plain.url}/queue`, { headers: { "X-Fault": "error" } })).status).toBe(200);
});

test("a fault that makes no sense is refused", async () => {
  const answer = await arm([{ kind: "hang" }, { kind: "explode", step: -1 }]);
  expect(answer.status).toBe(400);
  expect((await getJson(engine, "/faults")).armed).toEqual([]);
});

test.each([
  { kind: "refuse", status: 503 },
  { kind: "error", status: 500 },
  { kind: "error", asked: 502, status: 502 },
])("$kind answers $status once, and nothing is done", async ({ kind, asked, status }) => {
  await arm({ kind, status: asked });
  const id = randomUUID();
  const send = () => post(engine, "/prompt", { prompt: pictureGraph(), prompt_id: id });
  expect((await send()).status).toBe(status);
  expect(await computed(id)).toBeUndefined();
  expect((await send()).status).toBe(200);
});

test("late answers after what was asked later", async () => {
  await arm({ kind: "late", path: "/queue", ms: 50 });
  const answered: string[] = [];
  const ask = async (name: string) => {
    await getJson(engine, "/queue");
    answered.push(name);
  };
  const late = ask("first");
  await ask("second");
  await late;
  expect(answered).toEqual(["second", "first"]);
});

test("a dropped answer leaves the work done", async () => {
  const listener = await Listener.open(engine);
  await arm({ kind: "drop" });
  const id = randomUUID();
  const body = { prompt: pictureGraph(), prompt_id: id, client_id: listener.clientId };
  const answer = post(engine, "/prompt", body).then((response) => response.text());
  expect(await answer.catch((error) => error)).toBeInstanceOf(Error);
  await listener.endOf(id);
  expect(await computed(id)).toEqual({ begun: 1, finished: 1, failed: 0 });
});

test("dropped sockets are closed", async () => {
  const listener = await Listener.open(engine);
  const closed = new Promise((resolve) => listener.socket.addEventListener("close", resolve));
  await arm({ kind: "drop-socket", path: "/queue" });
  await getJson(engine, "/queue");
  await closed;
});

test.each([
  { fault: { kind: "out-of-memory", step: 2 }, type: "torch.OutOfMemoryError" },
  { fault: { kind: "fail", step: 0 }, type: "RuntimeError" },
])("$fault.kind at step $fault.step ends the prompt in $type", async ({ fault, type }) => {
  const listener = await Listener.open(engine);
  await arm(fault);
  const [event, data] = lastWord(await listener.run(pictureGraph()));
  expect({ event, type: data.exception_type }).toEqual({ event: "execution_error", type });
});

test.each([
  { step: 0, told: 0 },
  { step: 2, told: 1 },
])("a prompt hangs at step $step until it is let go", async ({ step, told }) => {
  const listener = await Listener.open(engine);
  await arm({ kind: "hang", step });
  const id = await listener.post(pictureGraph({ steps: 3 }));
  if (told > 0) await listener.progressOf(id);
  else await listener.next(({ type, data }) => type === "executing" && data.prompt_id === id);
  expect((await getJson(engine, "/queue")).queue_running[0][1]).toBe(id);
  expect(listener.typesOf(id).filter((type) => type === "progress")).toHaveLength(told);
  await clear();
  await listener.endOf(id);
  expect(await computed(id)).toEqual({ begun: 1, finished: 1, failed: 0 });
});

test("what hangs can be interrupted", async () => {
  const listener = await Listener.open(engine);
  await arm({ kind: "hang" });
  const id = await listener.post(pictureGraph());
  await listener.next(({ type, data }) => type === "executing" && data.prompt_id === id);
  await post(engine, "/interrupt", { prompt_id: id });
  await listener.endOf(id);
  expect(await computed(id)).toEqual({ begun: 1, finished: 0, failed: 1 });
});

test("a duplicate tells everything twice and does it once", async () => {
  const listener = await Listener.open(engine);
  await arm({ kind: "duplicate" });
  const id = await listener.post(pictureGraph({ steps: 2 }));
  await listener.endOf(id);
  await listener.run(pictureGraph());
  expect(listener.typesOf(id).filter((type) => type === "execution_success")).toHaveLength(2);
  expect(listener.typesOf(id).filter((type) => type === "executing" || type === "progress").length % 2).toBe(0);
  expect(await computed(id)).toEqual({ begun: 1, finished: 1, failed: 0 });
});

test("a wrong file is no picture", async () => {
  const listener = await Listener.open(engine);
  await arm({ kind: "wrong-file" });
  const entry = await listener.run(pictureGraph());
  const [output]: Json[] = Object.values(entry.outputs);
  const bytes = await (await view(engine, output.images[0])).arrayBuffer();
  expect(
    await sharp(Buffer.from(bytes))
      .metadata()
      .catch(() => null),
  ).toBeNull();
});

test("an engine that dies comes back on its port with nothing but its files", async () => {
  const listener = await Listener.open(engine);
  const before = await listener.post(pictureGraph());
  await listener.endOf(before);
  const closed = new Promise((resolve) => listener.socket.addEventListener("close", resolve));
  await arm({ kind: "die", step: 2, ms: 20 });
  const id = await listener.post(pictureGraph());
  await closed;
  const ask = () => getJson(engine, "/history").catch(() => null);
  let history = await ask();
  while (history === null) history = await ask();
  expect(history).toEqual({});
  expect(await computed(before)).toEqual({ begun: 1, finished: 1, failed: 0 });
  expect(await computed(id)).toEqual({ begun: 1, finished: 0, failed: 1 });
  const again = await Listener.open(engine);
  expect((await again.run(pictureGraph())).status.status_str).toBe("success");
});

test("a header faults one request or its prompt alone", async () => {
  const listener = await Listener.open(engine);
  expect((await order("error")).status).toBe(500);
  const answer: Json = await (await order('{"kind":"fail","step":1}')).json();
  const next = await listener.run(pictureGraph());
  expect(next.status.status_str).toBe("success");
  expect((await getJson(engine, `/history/${answer.prompt_id}`))[answer.prompt_id].status.status_str).toBe("error");
});

test("chances come from the seed: the same requests fail in the same places", async () => {
  const outcomes = await Promise.all(
    [0, 1].map(async () => {
      const other = await startEngine({ faults: { seed: 3 }, instant: true });
      await arm({ kind: "error", path: "/queue", chance: 0.5, times: null }, other);
      const statuses: number[] = [];
      for (let i = 0; i < 20; i++) statuses.push((await fetch(`${other.url}/queue`)).status);
      return statuses;
    }),
  );
  expect(outcomes[0]).toEqual(outcomes[1] as number[]);
  expect(new Set(outcomes[0]).size).toBe(2);
});

test("what was computed is known after the whole program was killed", async () => {
  const directory = temporaryDirectory();
  const first = await startEngine({ directory, faults: {}, instant: true });
  const listener = await Listener.open(first);
  const id = await listener.post(pictureGraph());
  await listener.endOf(id);
  await first.stop();
  const second = await startEngine({ directory, faults: {}, instant: true });
  expect(second.faults?.computed.get(id)).toEqual({ begun: 1, finished: 1, failed: 0 });
});

test("an instant engine still tells every step, and gives whole results of their own", async () => {
  const listener = await Listener.open(engine);
  const [one, other] = [await listener.draw(pictureGraph({ seed: 1 })), await listener.draw(pictureGraph({ seed: 2 }))];
  expect(await sharp(one).metadata()).toMatchObject({ format: "png", width: 64, height: 64 });
  expect(one.equals(other)).toBe(false);
  await uploadDataset(engine, "flags", "#204080", "#f0e060");
  const id = await listener.post(trainingGraph("flags", "loras/instant/model", { steps: 50 }));
  await listener.endOf(id);
  expect(listener.typesOf(id).filter((type) => type === "progress")).toHaveLength(50);
});

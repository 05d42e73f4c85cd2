import { expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { getJson, type Json, Listener, pictureGraph, post, startEngine } from "./client.ts";

const engine = await startEngine();

test("a prompt tells of itself in ComfyUI's order, and its end comes after the history", async () => {
  const listener = await Listener.open(engine);
  const id = await listener.post(pictureGraph({ steps: 3 }));
  await listener.endOf(id);
  const history = await getJson(engine, `/history/${id}`);
  expect(Object.keys(history)).toEqual([id]);
  const types = listener.typesOf(id);
  expect(types.slice(0, 2)).toEqual(["execution_start", "execution_cached"]);
  expect(types.slice(-3)).toEqual(["executed", "execution_success", "executing"]);
  expect(types.filter((type) => type === "executing")).toHaveLength(8);
  // The last status comes before the end: nothing is left by then.
  const last = listener.events.findLastIndex(({ type }) => type === "status");
  expect(listener.events[last]?.data.status.exec_info.queue_remaining).toBe(0);
  expect(listener.events[last + 1]?.data).toEqual({ node: null, prompt_id: id });
});

test("progress counts every step from one, and progress_state follows each node to its end", async () => {
  const listener = await Listener.open(engine);
  const id = await listener.post(pictureGraph({ steps: 4, text: "a text that only this test has" }));
  await listener.endOf(id);
  const ticks = listener.events.filter(({ type }) => type === "progress").map(({ data }) => data);
  expect(ticks).toEqual([1, 2, 3, 4].map((value) => ({ value, max: 4, prompt_id: id, node: "sampler" })));
  const states = listener.events.filter(({ type }) => type === "progress_state").map(({ data }) => data.nodes);
  expect(states.at(-1).sampler).toMatchObject({ state: "finished", value: 4, max: 4, display_node_id: "sampler" });
  expect(states[0].positive).toMatchObject({ state: "running", value: 0, max: 1 });
});

test("the history entry holds the queue item, the outputs and all life-cycle messages", async () => {
  const listener = await Listener.open(engine);
  const graph = pictureGraph();
  const entry = await listener.run(graph, { extra_data: { note: "kept" } });
  expect(entry.status).toMatchObject({ status_str: "success", completed: true });
  expect(entry.status.messages.map(([type]: Json) => type)).toEqual([
    "execution_start",
    "execution_cached",
    "execution_success",
  ]);
  expect(entry.prompt[2]).toEqual(graph);
  expect(entry.prompt[3]).toMatchObject({ client_id: listener.clientId, note: "kept" });
  expect(entry.prompt[4]).toEqual(["save"]);
  expect(entry.outputs.save.images[0]).toMatchObject({ filename: "img_00001_.png", type: "output" });
  expect(entry.meta.save.real_node_id).toBe("save");
});

test("the same graph again is served from the cache and points at the earlier file", async () => {
  const listener = await Listener.open(engine);
  const graph = pictureGraph({ seed: 77 });
  const first = await listener.run(graph);
  const id = await listener.post(graph);
  await listener.endOf(id);
  const cached = listener.events.find(({ type, data }) => type === "execution_cached" && data.prompt_id === id);
  expect(cached?.data.nodes.toSorted()).toEqual(Object.keys(graph).toSorted());
  expect(listener.typesOf(id)).not.toContain("progress");
  expect((await getJson(engine, `/history/${id}`))[id].outputs).toEqual(first.outputs);
});

test("previews are JPEG frames of kind 1, and of kind 4 with their place once the client asked for it", async () => {
  const listener = await Listener.open(engine);
  await listener.run(pictureGraph({ steps: 2, seed: 1 }));
  const plain = listener.events.filter(({ type }) => type === "binary");
  expect(plain).toHaveLength(2);
  expect(plain[0]?.bytes?.readUInt32BE(0)).toBe(1);
  expect(plain[0]?.bytes?.readUInt32BE(4)).toBe(1);
  expect(plain[0]?.bytes?.subarray(8, 11).toString("hex")).toBe("ffd8ff");

  listener.socket.send(JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } }));
  const flags = await listener.next(({ type }) => type === "feature_flags");
  expect(flags.data.supports_preview_metadata).toBe(true);
  const id = await listener.post(pictureGraph({ steps: 2, seed: 2 }));
  await listener.endOf(id);
  const frame = listener.events.findLast(({ type }) => type === "binary")?.bytes ?? Buffer.alloc(8);
  expect(frame.readUInt32BE(0)).toBe(4);
  const length = frame.readUInt32BE(4);
  const metadata = JSON.parse(frame.subarray(8, 8 + length).toString());
  expect(metadata).toMatchObject({ node_id: "sampler", prompt_id: id, image_type: "image/jpeg" });
  expect(frame.subarray(8 + length, 11 + length).toString("hex")).toBe("ffd8ff");
});

test("no previews come when the prompt switches them off", async () => {
  const listener = await Listener.open(engine);
  await listener.run(pictureGraph({ steps: 2, seed: 3 }), { extra_data: { preview_method: "none" } });
  expect(listener.events.some(({ type }) => type === "binary")).toBe(false);
});

test("a prompt without client_id is told to nobody but for status and progress", async () => {
  const listener = await Listener.open(engine);
  const id = randomUUID();
  await post(engine, "/prompt", { prompt: pictureGraph({ seed: 4 }), prompt_id: id });
  // The next prompt's end proves that this one is over.
  await listener.run(pictureGraph());
  expect(new Set(listener.typesOf(id))).toEqual(new Set(["progress"]));
  expect((await getJson(engine, `/history/${id}`))[id].status.completed).toBe(true);
});

test("a second socket under the same client id takes over and is told the running node", async () => {
  const first = await Listener.open(engine);
  const id = await first.post(pictureGraph({ steps: 10000, width: 16, height: 16 }));
  await first.progressOf(id);
  const second = await Listener.open(engine, first.clientId);
  const node = await second.next(({ type }) => type === "executing");
  expect(node.data).toEqual({ node: "sampler" });
  await second.progressOf(id);
  const heard = first.events.length;
  await post(engine, "/interrupt", { prompt_id: id });
  await second.endOf(id);
  expect(first.events).toHaveLength(heard);
});

test("when a socket that was taken over closes, its successor is cut off: ComfyUI's trap", async () => {
  const first = await Listener.open(engine);
  const second = await Listener.open(engine, first.clientId);
  const closed = new Promise((resolve) => first.socket.addEventListener("close", resolve));
  first.socket.close();
  await closed;
  const heard = second.events.length;
  const observer = await Listener.open(engine);
  await observer.run(pictureGraph({ seed: 5 }), { client_id: observer.clientId });
  await second.post(pictureGraph({ seed: 6 }));
  await observer.run(pictureGraph({ seed: 7 }));
  expect(second.events).toHaveLength(heard);
});

test("routes and the socket answer below /api as well", async () => {
  const listener = await Listener.open(engine, randomUUID(), "/api/ws");
  expect(listener.events[0]?.data.sid).toBe(listener.clientId);
  expect(await getJson(engine, "/api/prompt")).toEqual({ exec_info: { queue_remaining: 0 } });
});

/** An engine that cannot be reached for a moment: nothing is computed twice for that. */
import { expect, test } from "bun:test";
import { startPool } from "../helpers/pool.ts";

const pool = await startPool({
  engines: [
    { name: "painter", type: "infer", faults: {} },
    { name: "trainer", type: "train", faults: {} },
  ],
});
const owner = await pool.signUp();
const body = { prompt: "a lake", width: 64, height: 64, num_inference_steps: 2 };

/** Arms a fault of the engine's HTTP side. */
async function harm(name: string, kind: string, path: string, times: number): Promise<void> {
  const { url } = pool.engine(name).engine;
  const answer = await fetch(`${url}/faults`, { method: "POST", body: JSON.stringify({ kind, path, times }) });
  expect(answer.status).toBe(200);
}

function computed(name: string): { begun: number }[] {
  return [...(pool.engine(name).engine.faults?.computed.values() ?? [])];
}

test.each([
  { what: "refuses to hand out a result", kind: "refuse", path: "/view", times: 2 },
  { what: "answers with errors when asked for a result", kind: "error", path: "/view", times: 3 },
  { what: "breaks off while it hands out a result", kind: "drop", path: "/view", times: 1 },
  { what: "takes a run and does not say so", kind: "drop", path: "/prompt", times: 1 },
  { what: "takes no run at first", kind: "refuse", path: "/prompt", times: 2 },
])("an engine that $what: one attempt, computed once", async ({ kind, path, times }) => {
  const before = computed("painter").length;
  await harm("painter", kind, path, times);
  const image = await pool.make("images", owner.token, { ...body, seed: before });
  expect(await pool.finished(image.task_id)).toMatchObject({ status: "success", attempts: 1 });
  expect(computed("painter").slice(before)).toMatchObject([{ begun: 1, finished: 1 }]);
});

test("a picture that was spoilt is made again, and not the next one, which was made meanwhile", async () => {
  const before = computed("painter").length;
  await harm("painter", "wrong-file", "/prompt", 1);
  const task = await pool.make("tasks", owner.token, { ...body, type: "infer", count: 2, seed: 1000 });
  const ended = await pool.finished(task.id);
  expect(ended).toMatchObject({ status: "success", attempts: 2 });
  expect(computed("painter").slice(before)).toMatchObject([
    { begun: 1, failed: 1 },
    { begun: 1, finished: 1 },
    { begun: 1, finished: 1 },
  ]);
});

test("a trained model is fetched although the engine breaks off at first", async () => {
  const { url: image } = await pool.upload(owner.token);
  const dataset = await pool.makeDataset(owner.token);
  await harm("trainer", "drop", "/view", 1);
  const train = { resolution: 64, rank: 1 };
  const model = await pool.make("models", owner.token, { dataset_id: dataset.id, epochs: 2, train, image });
  expect(await pool.finished(model.task_id)).toMatchObject({ status: "success", attempts: 1 });
  expect(computed("trainer")).toMatchObject([{ begun: 1, finished: 1 }]);
});

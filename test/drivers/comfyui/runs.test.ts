import { afterEach, expect, test } from "bun:test";
import { createComfyuiDriver } from "../../../src/drivers/comfyui/index.ts";
import { ComfyuiDouble } from "../../helpers/comfyui-double.ts";
import { follow, inferenceJob, trainingJob, typesOf } from "../jobs.ts";

let engine: ComfyuiDouble;
afterEach(() => engine.stop());
const driver = createComfyuiDriver({ pace: { firstMs: 20, mostMs: 100 } });
const signal = AbortSignal.timeout(60_000);

test("a picture is made from a text, and can be fetched", async () => {
  engine = new ComfyuiDouble();
  const job = inferenceJob();
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  const events = await follow(driver, engine.target, handle);
  expect(typesOf(events).at(-1)).toBe("finished");
  const artifact = events.find((event) => event.type === "artifact")?.artifact;
  expect(artifact?.contentType).toBe("image/png");
  if (!artifact) throw new Error();
  const bytes = await new Response(await driver.fetch(engine.target, artifact, signal)).bytes();
  expect(bytes.length).toBe(4);
});

test.each(["A", "C"] as const)("a LoRA is trained with the nodes of generation %s", async (generation) => {
  engine = new ComfyuiDouble({ generation });
  const job = trainingJob();
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  const events = await follow(driver, engine.target, handle);
  expect(events.at(-1)).toEqual({ type: "finished" });
  expect(events.find((event) => event.type === "artifact")).toMatchObject({ artifact: { role: "model" } });
});

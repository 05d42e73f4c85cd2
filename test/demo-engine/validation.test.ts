import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { type Graph, getJson, type Json, Listener, pictureGraph, post, startEngine } from "./client.ts";

const engine = await startEngine();

async function refused(prompt: unknown, more: Record<string, unknown> = {}): Promise<Json> {
  const response = await post(engine, "/prompt", { prompt, ...more });
  expect(response.status).toBe(400);
  return response.json();
}

/** A good graph with inputs of one node changed; undefined takes one away. */
function broken(node: string, inputs: Record<string, unknown>): Graph {
  const graph = pictureGraph({ from: undefined });
  const target = graph[node] ?? { class_type: "LoadImage", inputs: {} };
  for (const [name, value] of Object.entries(inputs)) {
    if (value === undefined) delete target.inputs[name];
    else target.inputs[name] = value;
  }
  return { ...graph, [node]: target };
}

describe("a graph is refused as a whole", () => {
  test.each([
    { why: "nothing posted", prompt: undefined, type: "no_prompt" },
    { why: "an unknown class", prompt: { 1: { class_type: "Nonsense", inputs: {} } }, type: "invalid_prompt" },
    { why: "no class", prompt: { 1: { inputs: {} } }, type: "invalid_prompt" },
    { why: "no output node", prompt: { 1: pictureGraph().loader }, type: "prompt_no_outputs" },
    { why: "an empty graph", prompt: {}, type: "prompt_no_outputs" },
  ])("for $why: $type", async ({ prompt, type }) => {
    expect((await refused(prompt)).error.type).toBe(type);
  });

  test.each(["not-a-uuid", randomUUID().toUpperCase(), randomUUID().replaceAll("-", ""), 7])(
    "for the prompt_id %p",
    async (promptId) => {
      const { error } = await refused(pictureGraph(), { prompt_id: promptId });
      expect(error.type).toBe("invalid_prompt_id");
    },
  );

  test("a newer ComfyUI calls an unknown class missing_node_type", async () => {
    const newer = await startEngine({ trainingNodes: "C" });
    const response = await post(newer, "/prompt", { prompt: { 1: { class_type: "Nonsense", inputs: {} } } });
    const { error }: Json = await response.json();
    expect(error).toMatchObject({ type: "missing_node_type", extra_info: { node_id: "1", class_type: "Nonsense" } });
  });
});

describe("an input is refused", () => {
  test.each([
    { node: "sampler", inputs: { seed: undefined }, type: "required_input_missing" },
    { node: "sampler", inputs: { seed: "abc" }, type: "invalid_input_type" },
    { node: "sampler", inputs: { steps: null }, type: "invalid_input_type" },
    { node: "sampler", inputs: { steps: 0 }, type: "value_smaller_than_min" },
    { node: "sampler", inputs: { denoise: 1.5 }, type: "value_bigger_than_max" },
    { node: "sampler", inputs: { sampler_name: "nonsense" }, type: "value_not_in_list" },
    { node: "loader", inputs: { ckpt_name: "missing.safetensors" }, type: "value_not_in_list" },
    { node: "decoder", inputs: { samples: ["sampler", 0, 1] }, type: "bad_linked_input" },
    { node: "decoder", inputs: { samples: ["loader", 0] }, type: "return_type_mismatch" },
    { node: "sampler", inputs: { latent_image: ["sampler", 0] }, type: "dependency_cycle" },
  ])("$node: $type", async ({ node, inputs, type }) => {
    const { error, node_errors } = await refused(broken(node, inputs));
    expect(error.type).toBe("prompt_outputs_failed_validation");
    expect(Object.keys(node_errors)).toEqual([node]);
    expect(node_errors[node].errors.map((one: Json) => one.type)).toEqual([type]);
    expect(node_errors[node]).toMatchObject({ dependent_outputs: ["save"] });
  });

  test("a link to nowhere breaks the validation of the node that has it", async () => {
    const { node_errors } = await refused(broken("decoder", { samples: ["nowhere", 0] }));
    expect(node_errors.decoder.errors[0]).toMatchObject({
      type: "exception_during_inner_validation",
      extra_info: { exception_type: "KeyError" },
    });
    const top = await refused(broken("save", { images: ["decoder", 5] }));
    expect(top.node_errors.save.errors[0].type).toBe("exception_during_validation");
  });

  test("LoadImage of a file that is not there fails its own validation", async () => {
    const { node_errors } = await refused(pictureGraph({ from: "nobody/there.png" }));
    expect(node_errors.image.errors[0]).toMatchObject({
      type: "custom_validation_failed",
      details: "image - Invalid image file: nobody/there.png",
    });
  });

  test("a short list of choices is sent back, a long one only counted", async () => {
    const short = await refused(broken("loader", { ckpt_name: "x" }));
    expect(short.node_errors.loader.errors[0].details).toBe(
      "ckpt_name: 'x' not in ['v1-5-pruned-emaonly-demo.safetensors', 'v2-1_512-ema-pruned-demo.safetensors']",
    );
    const long = await refused(broken("sampler", { sampler_name: "x" }));
    expect(long.node_errors.sampler.errors[0].details).toMatch(/^sampler_name: 'x' not in \(list of length \d+\)$/);
    expect(long.node_errors.sampler.errors[0].extra_info.input_config).toBeNull();
  });
});

test("literals are coerced and unknown inputs ignored", async () => {
  const listener = await Listener.open(engine);
  const graph = broken("sampler", { seed: "12", steps: 2.9, cfg: "7.5", nonsense: [1, 2] });
  const entry = await listener.run(graph);
  expect(entry.status.status_str).toBe("success");
  expect(entry.prompt[2].sampler.inputs).toMatchObject({ seed: 12, steps: 2, cfg: 7.5 });
});

test("with one good output and a bad one, the answer is 200 and the bad branch is left out", async () => {
  const listener = await Listener.open(engine);
  const graph = pictureGraph();
  graph.bad = { class_type: "SaveImage", inputs: { filename_prefix: "x" } };
  const id = randomUUID();
  const response = await post(engine, "/prompt", { prompt: graph, prompt_id: id, client_id: listener.clientId });
  expect(response.status).toBe(200);
  const answer: Json = await response.json();
  expect(answer.node_errors.bad.errors[0].type).toBe("required_input_missing");
  await listener.endOf(id);
  expect(Object.keys((await getJson(engine, `/history/${id}`))[id].outputs)).toEqual(["save"]);
});

test.each(["/prompt", "/queue", "/history", "/free"])("malformed JSON to %s is a bare 500", async (path) => {
  expect((await fetch(engine.url + path, { method: "POST", body: "{" })).status).toBe(500);
});

describe("object_info", () => {
  test("describes classes in ComfyUI's shape", async () => {
    const { KSampler } = await getJson(engine, "/object_info/KSampler");
    expect(KSampler.input.required.sampler_name[0]).toContain("dpmpp_2m");
    expect(KSampler.input.required.steps).toEqual(["INT", { default: 20, min: 1, max: 10000 }]);
    expect(KSampler).toMatchObject({ output: ["LATENT"], output_node: false, name: "KSampler" });
    expect(KSampler.input_order.required).toEqual(Object.keys(KSampler.input.required));
    expect(await getJson(engine, "/object_info/Nonsense")).toEqual({});
  });

  test("lists the training nodes of the chosen generation, choices in its schema", async () => {
    const older = await getJson(engine, "/object_info");
    expect(older.TrainLoraNode.output).toEqual(["MODEL", "LORA_MODEL", "LOSS_MAP", "INT"]);
    expect(Array.isArray(older.TrainLoraNode.input.required.optimizer[0])).toBe(true);
    expect(older).toHaveProperty("SaveLoRANode");
    expect(older).not.toHaveProperty("SaveLoRA");
    const newer = await getJson(await startEngine({ trainingNodes: "C" }), "/object_info");
    expect(newer.TrainLoraNode.output).toEqual(["LORA_MODEL", "LOSS_MAP", "INT"]);
    expect(newer.TrainLoraNode.input.required.optimizer).toMatchObject([
      "COMBO",
      { options: ["AdamW", "Adam", "SGD", "RMSprop"] },
    ]);
    expect(newer).not.toHaveProperty("SaveLoRANode");
    expect(newer.SaveLoRA.output_node).toBe(true);
  });
});

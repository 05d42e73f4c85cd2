import { beforeAll, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import {
  type Graph,
  getJson,
  type Json,
  Listener,
  pictureGraph,
  sd15,
  startEngine,
  trainingGraph,
  trainingInputs,
  twoColors,
  upload,
  uploadDataset,
  view,
} from "./client.ts";

const engine = await startEngine();
const listener = await Listener.open(engine);
beforeAll(() => uploadDataset(engine, "flags", "#0a4fa0", "#fecb00"));

/** Reads a safetensors file by the book, checking what the format demands. */
function parse(file: Buffer): { metadata: Record<string, string>; tensors: Record<string, Json> } {
  const length = Number(file.readBigUInt64LE(0));
  const { __metadata__: metadata, ...tensors } = JSON.parse(file.subarray(8, 8 + length).toString());
  let end = 0;
  for (const { dtype, shape, data_offsets } of Object.values<Json>(tensors)) {
    const size = shape.reduce((product: number, edge: number) => product * edge, dtype === "BF16" ? 2 : 4);
    expect(data_offsets).toEqual([end, end + size]);
    end += size;
  }
  expect(file.length).toBe(8 + length + end);
  return { metadata, tensors };
}

async function fetchModel(subfolder: string, filename: string): Promise<Buffer> {
  const response = await view(engine, { type: "output", subfolder, filename });
  expect(response.status).toBe(200);
  return Buffer.from(await response.arrayBuffer());
}

describe("a training of the older generation", () => {
  test("ticks every step and leaves a valid file with LoRA names and kohya's metadata", async () => {
    const id = await listener.post(trainingGraph("flags", "loras/one/model", { steps: 60 }));
    await listener.endOf(id);
    const ticks = listener.events.filter(({ type, data }) => type === "progress" && data.prompt_id === id);
    expect(ticks.map(({ data }) => data.value)).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
    expect(ticks[0]?.data).toMatchObject({ node: "train", max: 60 });
    // The save node reports nothing: its file has to be known by the prefix.
    expect((await getJson(engine, `/history/${id}`))[id].outputs).toEqual({});

    const { metadata, tensors } = parse(await fetchModel("loras/one", "model_00001_.safetensors"));
    expect(tensors["lora_unet_demo.lora_down.weight"]).toMatchObject({ dtype: "F32", shape: [4, 192] });
    expect(tensors["lora_unet_demo.lora_up.weight"].shape).toEqual([192, 4]);
    expect(tensors["lora_unet_demo.alpha"].shape).toEqual([]);
    expect(metadata).toMatchObject({
      ss_network_module: "networks.lora",
      ss_network_dim: "4",
      ss_steps: "60",
      ss_learning_rate: "0.0005",
      ss_base_model_version: "sd_v1",
    });
    expect(metadata.demo).toContain("demo engine");
    expect(Number(metadata.demo_last_loss)).toBeLessThan(Number(metadata.demo_first_loss) * 0.7);
    expect(JSON.parse(metadata.ss_tag_frequency ?? "").training.flag).toBe(3);
  });

  test("can be used at once, and its counter goes on from the files present", async () => {
    await listener.run(trainingGraph("flags", "loras/two/model", { seed: 1 }));
    await listener.run(trainingGraph("flags", "loras/two/model", { seed: 2 }));
    const names = ["two/model_00001_.safetensors", "two/model_00002_.safetensors"];
    expect(await getJson(engine, "/models/loras")).toEqual(expect.arrayContaining(names));
    const entry = await listener.run(pictureGraph({ lora: names[1] }));
    expect(entry.status.status_str).toBe("success");
    const metadata = await getJson(engine, `/view_metadata/loras?filename=${names[0]}`);
    expect(metadata.ss_seed).toBe("1");
  });

  test("stores its factors in half the bytes when asked for bf16", async () => {
    await listener.run(trainingGraph("flags", "loras/half/model", { lora_dtype: "bf16" }));
    const { tensors } = parse(await fetchModel("loras/half", "model_00001_.safetensors"));
    expect(tensors["lora_unet_demo.lora_up.weight"].dtype).toBe("BF16");
    expect((await listener.run(pictureGraph({ lora: "half/model_00001_.safetensors" }))).status.completed).toBe(true);
  });

  test("with `steps` linked names them in the file, and can be continued from there", async () => {
    const graph = trainingGraph("flags", "loras/more/model", { steps: 10 });
    Object.assign(graph.save?.inputs ?? {}, { steps: ["train", 3] });
    await listener.run(graph);
    const existing = "more/model_10_steps_00001_.safetensors";
    await listener.run(trainingGraph("flags", "loras/further/model", { steps: 5, existing_lora: existing }));
    const { metadata } = parse(await fetchModel("loras/further", "model_00001_.safetensors"));
    expect(metadata.ss_steps).toBe("15");
    const nameless = { existing_lora: "further/model_00001_.safetensors" };
    const entry = await listener.run(trainingGraph("flags", "loras/x/model", nameless));
    expect(entry.status.messages.at(-1)[1].exception_type).toBe("ValueError");
  });

  test.each([
    { why: "a missing caption", files: [["1.png", null]] },
    { why: "an empty caption", files: [["1.png", "  "]] },
  ])("fails for $why, as ComfyUI 0.3.64 does", async ({ files }) => {
    const subfolder = randomUUID();
    for (const [name, caption] of files) {
      await upload(engine, { name: name ?? "", bytes: await twoColors("#000", "#fff"), subfolder });
      if (caption) await upload(engine, { name: "1.txt", bytes: caption, subfolder });
    }
    const entry = await listener.run(trainingGraph(subfolder, "loras/none/model"));
    expect(entry.status.messages.at(-1)[1]).toMatchObject({ node_id: "train", exception_type: "ValueError" });
  });

  test("refuses a folder that was never uploaded", async () => {
    expect(listener.post(trainingGraph("nowhere", "loras/x/model"))).rejects.toThrow("value_not_in_list");
  });

  test("takes the colours of its pictures into the file", async () => {
    await listener.run(trainingGraph("flags", "loras/colors/model", { steps: 40 }));
    const file = await fetchModel("loras/colors", "model_00001_.safetensors");
    const { tensors } = parse(file);
    const start = 8 + Number(file.readBigUInt64LE(0)) + tensors["demo.palette"].data_offsets[0];
    const colors = Array.from({ length: 6 }, (_, color) =>
      [0, 1, 2].map((channel) => file.readFloatLE(start + (color * 3 + channel) * 4)),
    );
    const near = (target: number[]) =>
      Math.min(...colors.map((color) => Math.hypot(...color.map((value, i) => value - (target[i] ?? 0)))));
    // #0a4fa0 and #fecb00 in linear light.
    expect(near([0.003, 0.078, 0.352])).toBeLessThan(0.08);
    expect(near([0.991, 0.597, 0])).toBeLessThan(0.08);
  });
});

test("a training of the newer generation reads nested folders and ticks every micro-step", async () => {
  const newer = await startEngine({ trainingNodes: "C" });
  const follower = await Listener.open(newer);
  await uploadDataset(newer, "job/2_flags", "#0a4fa0", "#fecb00");
  const graph: Graph = {
    loader: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: sd15 } },
    set: { class_type: "LoadImageTextDataSetFromFolder", inputs: { folder: "job" } },
    small: { class_type: "ResizeImagesByShorterEdge", inputs: { images: ["set", 0], shorter_edge: 80 } },
    cut: { class_type: "CenterCropImages", inputs: { images: ["small", 0], width: 64, height: 64 } },
    made: {
      class_type: "MakeTrainingDataset",
      inputs: { images: ["cut", 0], vae: ["loader", 2], clip: ["loader", 1], texts: ["set", 1] },
    },
    train: {
      class_type: "TrainLoraNode",
      inputs: {
        model: ["loader", 0],
        latents: ["made", 0],
        positive: ["made", 1],
        ...trainingInputs,
        grad_accumulation_steps: 2,
        checkpoint_depth: 1,
        offloading: false,
        bucket_mode: false,
        bypass_mode: false,
      },
    },
    save: { class_type: "SaveLoRA", inputs: { lora: ["train", 0], prefix: "loras/new/model" } },
  };
  const id = await follower.post(graph);
  await follower.endOf(id);
  const ticks = follower.events.filter(({ type }) => type === "progress").map(({ data }) => data);
  expect(ticks).toHaveLength(40);
  expect(ticks.at(-1)).toMatchObject({ value: 40, max: 40 });
  const metadata = await getJson(newer, "/view_metadata/loras?filename=new/model_00001_.safetensors");
  // Three pictures, twice each by the folder's name.
  expect(metadata.ss_num_train_images).toBe("6");
});

import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import sharp from "sharp";
import {
  Listener,
  type PictureSettings,
  pictureGraph,
  startEngine,
  trainingGraph,
  twoColors,
  upload,
  uploadDataset,
} from "./client.ts";

const engine = await startEngine();
const listener = await Listener.open(engine);

async function trainOn(name: string, left: string, right: string): Promise<string> {
  await uploadDataset(engine, name, left, right);
  await listener.run(trainingGraph(name, `loras/${name}/model`, { steps: 40 }));
  return `${name}/model_00001_.safetensors`;
}
const blueAndYellow = await trainOn("sweden", "#0a4fa0", "#fecb00");
const redAndWhite = await trainOn("poland", "#dc143c", "#ffffff");

const draw = (settings: PictureSettings) => listener.draw(pictureGraph(settings));
const hash = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

/** How far the mean colour of a picture is from red towards blue. */
async function blueness(bytes: Buffer): Promise<number> {
  const { channels } = await sharp(bytes).stats();
  return (channels[2]?.mean ?? 0) - (channels[0]?.mean ?? 0);
}

test.each([
  { width: 512, height: 512 },
  { width: 64, height: 128 },
  { width: 16, height: 16 },
])("a picture of $width x $height has exactly that size", async ({ width, height }) => {
  const metadata = await sharp(await draw({ width, height })).metadata();
  expect(metadata).toMatchObject({ format: "png", width, height });
});

const usual: PictureSettings = { text: "a castle", negative: "blur", lora: blueAndYellow, seed: 4 };

test("the same request gives the same bytes, also from another engine", async () => {
  const expected = hash(await draw(usual));
  expect(hash(await draw(usual))).toBe(expected);
  const other = await startEngine();
  const plain = { ...usual, lora: undefined };
  expect(hash(await (await Listener.open(other)).draw(pictureGraph(plain)))).toBe(hash(await draw(plain)));
});

test.each<{ what: string; change: PictureSettings }>([
  { what: "prompt", change: { text: "a castle at night" } },
  { what: "negative prompt", change: { negative: "" } },
  { what: "seed", change: { seed: 5 } },
  { what: "number of steps", change: { steps: 4 } },
  { what: "cfg", change: { cfg: 8 } },
  { what: "sampler", change: { sampler: "ddim" } },
  { what: "size", change: { width: 72 } },
  { what: "weight of the LoRA", change: { weight: 0.5 } },
  { what: "LoRA", change: { lora: redAndWhite } },
])("another $what gives another picture", async ({ change }) => {
  expect(hash(await draw({ ...usual, ...change }))).not.toBe(hash(await draw(usual)));
});

test("a LoRA brings the colours of its pictures, the more the higher its weight", async () => {
  const blue = await blueness(await draw({ ...usual, lora: blueAndYellow }));
  const red = await blueness(await draw({ ...usual, lora: redAndWhite }));
  const faint = await blueness(await draw({ ...usual, lora: redAndWhite, weight: 0.3 }));
  const none = await blueness(await draw({ ...usual, lora: undefined }));
  expect(blue).toBeGreaterThan(red + 15);
  expect(Math.abs(faint - none)).toBeLessThan(Math.abs(red - none));
});

test("a weight of zero is as good as no LoRA", async () => {
  expect(hash(await draw({ ...usual, weight: 0 }))).toBe(hash(await draw({ ...usual, lora: undefined })));
});

test("a picture made from another keeps the more of it the lower the strength", async () => {
  await upload(engine, { name: "source.png", bytes: await twoColors("#ff0000", "#0000ff"), subfolder: "sources" });
  const source = await sharp(await twoColors("#ff0000", "#0000ff"))
    .resize(64, 64)
    .removeAlpha()
    .raw()
    .toBuffer();
  const distances: number[] = [];
  for (const denoise of [0, 0.3, 0.7, 1]) {
    const bytes = await draw({ from: "sources/source.png", denoise });
    const pixels = await sharp(bytes).removeAlpha().raw().toBuffer();
    // The lower right corner carries the mark.
    const seen = pixels.subarray(0, 64 * 50 * 3);
    distances.push(seen.reduce((sum, value, i) => sum + Math.abs(value - (source[i] ?? 0)), 0) / seen.length);
  }
  expect(distances).toEqual(distances.toSorted((x, y) => x - y));
  expect(distances[0]).toBeLessThan(6);
});

test("a LoRA file that is none ends the prompt with an error", async () => {
  await upload(engine, { name: "broken.safetensors", bytes: "nothing useful", type: "output", subfolder: "loras" });
  const entry = await listener.run(pictureGraph({ lora: "broken.safetensors" }));
  expect(entry.status.messages.at(-1)[1].exception_type).toBe("safetensors_rust.SafetensorError");
});

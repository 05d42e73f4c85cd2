/**
 * The driver against a real A1111, Forge or SD.Next: `A1111_URL=http://127.0.0.1:7860 bun run test:engines`. It needs
 * `--api` and one checkpoint, whose weights do not matter, and should do nothing else meanwhile. `A1111_SHARED_DIR`, its
 * directory, adds the trainings that it offers and the use of what they make.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import sharp from "sharp";
import { createA1111Driver } from "../../src/drivers/a1111/index.ts";
import type { EngineJob, EngineTarget, InferenceJob, InputFile, ProbeReport } from "../../src/drivers/driver.ts";
import { schedulers } from "../../src/drivers/driver.ts";
import { driverContract } from "../drivers/contract.ts";
import { follow, inferenceJob, inputFile, trainingJob } from "../drivers/jobs.ts";
import { engineTarget } from "../helpers/engine-target.ts";

/** A CPU takes tenths of a second for a step. */
const patienceMs = 300_000;
const heldSteps = 40;

const named = engineTarget("A1111_URL", "http://127.0.0.1:7860");
if (named) suite({ ...named, sharedDir: process.env.A1111_SHARED_DIR || undefined });

function suite(target: EngineTarget): void {
  const driver = createA1111Driver();
  const limit = () => AbortSignal.timeout(patienceMs);
  let report: ProbeReport;
  let checkpoint = "";
  let seed = Math.floor(Math.random() * 1e6);

  beforeAll(async () => {
    report = await driver.probe(target, limit());
    checkpoint = report.checkpoints["SD1.5"] ?? report.models.checkpoints[0] ?? "";
    if (!checkpoint) throw new Error("the engine has no checkpoint");
  });

  const picture = (changes: Partial<InferenceJob> = {}) => inferenceJob({ checkpoint, seed: seed++, ...changes });

  async function run(job: EngineJob) {
    const handle = driver.prepare(crypto.randomUUID(), job);
    await driver.start(target, handle, job, limit());
    const events = await follow(driver, target, handle, limit());
    expect(events.at(-1)).toEqual({ type: "finished" });
    const artifact = events.find((event) => event.type === "artifact")?.artifact;
    if (!artifact) throw new Error("no artifact");
    return new Response(await driver.fetch(target, artifact, limit())).bytes();
  }
  const pixels = async (job: InferenceJob) =>
    sharp(await run(job))
      .removeAlpha()
      .raw()
      .toBuffer();

  driverContract("a real A1111 (infer)", async () => {
    let steps = 4;
    /** What the engine says of the task by its id. */
    const known = async (runId: string): Promise<Record<"active" | "queued" | "completed", boolean>> => {
      const address = `${target.tls ? "https" : "http"}://${target.host}:${target.port}`;
      const authorization = `Basic ${btoa(`${target.username}:${target.password ?? ""}`)}`;
      const headers = { "content-type": "application/json", ...(target.username ? { authorization } : {}) };
      const body = JSON.stringify({ id_task: `task(atelier-${runId})`, id_live_preview: -1 });
      return (await fetch(`${address}/internal/progress`, { method: "POST", headers, body })).json() as never;
    };
    return {
      target,
      patienceMs,
      keepsResults: false,
      createDriver: () => createA1111Driver(),
      createJob: () => picture({ steps }),
      hold: () => {
        steps = heldSteps;
      },
      release: () => {},
      running: async (runId) => {
        while (!(await known(runId)).active) await Bun.sleep(50);
      },
      submissions: async (runId) => {
        const { active, queued, completed } = await known(runId);
        return Number(active || queued || completed);
      },
      stop: async () => {},
    };
  });

  describe("a real A1111", () => {
    test.each([...schedulers])("makes a picture by %s where it offers it", async (scheduler) => {
      if (!report.capabilities.schedulers.includes(scheduler)) return;
      expect(await sharp(await run(picture({ scheduler }))).metadata()).toMatchObject({ width: 64, height: 64 });
    });

    test("changes a picture, the less the weaker", async () => {
      const image = await square("#c06030");
      const change = (strength: number) => pixels(picture({ seed: 7, from: { image, strength } }));
      const [slightly, wholly] = [await change(0.2), await change(1)];
      const source = await sharp(await bytesOf(image))
        .resize(64, 64, { fit: "cover" })
        .removeAlpha()
        .raw()
        .toBuffer();
      expect(distance(source, slightly)).toBeLessThan(distance(source, wholly));
    });

    test.skipIf(!target.sharedDir)("trains what it offers, and applies what it has made", async () => {
      const pictures = await Promise.all(
        ["red", "green"].map(async (caption) => ({ caption: `a ${caption} square`, image: await square(caption) })),
      );
      const plain = await pixels(picture({ seed: 7 }));
      for (const type of report.capabilities.train) {
        const content = await run(trainingJob({ type, checkpoint, pictures, steps: 4, seed: seed++ }));
        const file = inputFile(content, "pt");
        if (!report.capabilities.apply.includes(type)) continue;
        const model = { type, file, weight: 1, triggerWords: "" };
        expect(distance(plain, await pixels(picture({ seed: 7, model })))).toBeGreaterThan(0);
      }
    });
  });
}

async function square(background: string): Promise<InputFile> {
  const canvas = sharp({ create: { width: 96, height: 64, channels: 3, background } });
  return inputFile(await canvas.png().toBuffer());
}

const bytesOf = async (file: InputFile) => new Response(await file.stream()).bytes();

/** Mean difference of two pictures' bytes. */
function distance(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((sum, byte, index) => sum + Math.abs(byte - (b[index] ?? 0)), 0) / a.length;
}

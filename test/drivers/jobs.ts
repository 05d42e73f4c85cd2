/** Jobs and files to hand to a driver in tests. */
import { createHash } from "node:crypto";
import type {
  Driver,
  EngineEvent,
  EngineHandle,
  EngineTarget,
  InferenceJob,
  InputFile,
  TrainingJob,
} from "../../src/drivers/driver.ts";

export const checkpoint = "v1-5-pruned-emaonly.safetensors";

export function inputFile(content: string | Uint8Array, extension = "png"): InputFile {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : new Uint8Array(content);
  return {
    hash: createHash("sha256").update(bytes).digest("hex"),
    size: bytes.length,
    extension,
    stream: async () => new Blob([bytes]).stream(),
  };
}

export function inferenceJob(changes: Partial<InferenceJob> = {}): InferenceJob {
  return {
    kind: "infer",
    checkpoint,
    prompt: "a lighthouse",
    negativePrompt: "fog",
    width: 64,
    height: 64,
    steps: 4,
    guidanceScale: 7,
    scheduler: "K_EULER",
    seed: 7,
    ...changes,
  };
}

export function trainingJob(changes: Partial<TrainingJob> = {}): TrainingJob {
  const pictures = ["red", "green"].map((caption) => ({ image: inputFile(caption), caption }));
  return {
    kind: "train",
    type: "lora",
    checkpoint,
    baseModel: "SD1.5",
    pictures,
    steps: 6,
    learningRate: 1e-4,
    rank: 4,
    batchSize: 1,
    resolution: 64,
    seed: 7,
    triggerWords: "",
    ...changes,
  };
}

/** Everything that happens to a run, to its end. */
export async function follow(
  driver: Driver,
  target: EngineTarget,
  handle: EngineHandle,
  signal = AbortSignal.timeout(10_000),
): Promise<EngineEvent[]> {
  const events: EngineEvent[] = [];
  for await (const event of driver.watch(target, handle, signal)) events.push(event);
  return events;
}

export const typesOf = (events: readonly EngineEvent[]): string[] => events.map((event) => event.type);

/** What a host has to train with. */
import { EngineError, type EngineTarget, type ModelType } from "../driver.ts";
import type { SshConnection } from "../ssh/connection.ts";
import { parseFacts, runScript, workspace } from "./host.ts";
import { inspectScript } from "./scripts.ts";

/** The script for each type of model; hypernetworks are not trained by sd-scripts any more. */
export const trainingScripts: Partial<Record<ModelType, string>> = {
  lora: "train_network",
  ckp: "train_db",
  ti: "train_textual_inversion",
};

export interface Host {
  /** Our directory, absolute. */
  base: string;
  /** Where sd-scripts lies. */
  scriptsDir: string;
  version: string;
  accelerate: string;
  /** A cache of tokenizers for hosts that cannot reach the hub; null where there is none. */
  tokenizersDir: string | null;
  train: ModelType[];
  /** From the names that we show to where they lie. */
  checkpoints: Map<string, string>;
  /** Runs of ours that go on. */
  running: number;
  hasGpu: boolean;
  /** What is said of them in time. */
  gpus: { name: string; memoryTotalBytes: number | null; memoryFreeBytes: number | null }[];
}

/** @throws EngineError "wrong-engine" for a host without sd-scripts, "engine-failed" for one that lacks a part */
export async function inspect(ssh: SshConnection, target: EngineTarget, signal: AbortSignal): Promise<Host> {
  const facts = parseFacts((await runScript(ssh, inspectScript, { base: workspace(target) }, signal)).toString());
  const all = (name: string) => facts.filter((fact) => fact.name === name).map((fact) => fact.value);
  const [base] = all("base");
  const [scriptsDir] = all("sd");
  if (!base || !scriptsDir) throw new EngineError("wrong-engine", "The host has no sd-scripts where we look for it");
  const [accelerate] = all("accelerate");
  if (!accelerate) throw new EngineError("engine-failed", "The host has no accelerate to run sd-scripts with");
  if (all("setsid").length === 0) throw new EngineError("engine-failed", "The host has no setsid");
  const scripts = all("script");
  const checkpoints = new Map<string, string>();
  for (const path of all("checkpoint")) {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (!checkpoints.has(name)) checkpoints.set(name, path);
  }
  return {
    base,
    scriptsDir,
    version: all("version")[0] || "unknown",
    accelerate,
    tokenizersDir: all("tokenizers")[0] ?? null,
    train: (Object.keys(trainingScripts) as ModelType[]).filter((type) =>
      scripts.includes(trainingScripts[type] as string),
    ),
    checkpoints,
    running: all("running").length,
    hasGpu: all("device").length + all("gpu").length > 0,
    gpus: all("gpu").map(parseGpu),
  };
}

/** `24564, 20011, NVIDIA GeForce RTX 4090`: mebibytes; some report `[N/A]`. */
function parseGpu(line: string): Host["gpus"][number] {
  const [total, free, ...name] = line.split(",").map((part) => part.trim());
  const bytes = (mebibytes = "") => (/^\d+$/.test(mebibytes) ? Number(mebibytes) * 1_048_576 : null);
  return { name: name.join(", "), memoryTotalBytes: bytes(total), memoryFreeBytes: bytes(free) };
}

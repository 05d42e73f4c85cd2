/** What an engine says of itself. */
import type { ProbeReport, Scheduler } from "../driver.ts";
import { schedulers } from "../driver.ts";
import { features, queue, systemStats } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { samplers } from "./graphs.ts";
import { listModels } from "./models.ts";
import { findNode, type NodeInfo, offers } from "./object-info.ts";
import { findTrainingNodes } from "./training-nodes.ts";

export async function probe(client: ComfyClient, signal: AbortSignal): Promise<ProbeReport> {
  // Alone and first: it tells a ComfyUI from whatever else may answer there.
  const { system, devices } = await client.get("/system_stats", systemStats, signal);
  const [waiting, models, limits, sampler, lora, training] = await Promise.all([
    client.get("/queue", queue, signal),
    listModels(client, signal),
    client.find("/features", features, signal),
    findNode(client, "KSampler", signal),
    findNode(client, "LoraLoader", signal),
    findTrainingNodes(client, signal),
  ]);
  const known = sampler ? schedulers.filter((scheduler) => isOffered(sampler, scheduler)) : [];
  return {
    engine: "comfyui",
    version: system.comfyui_version,
    devices: devices.map((device) => ({
      name: device.name,
      type: device.type,
      memoryTotalBytes: device.vram_total ?? null,
      memoryFreeBytes: device.vram_free ?? null,
    })),
    queue: { running: waiting.queue_running.length, waiting: waiting.queue_pending.length },
    capabilities: {
      infer: known.length > 0,
      apply: lora ? ["lora", "ckp"] : ["ckp"],
      train: training ? ["lora"] : [],
      schedulers: known,
      maxUploadBytes: limits?.max_upload_size ?? null,
    },
    models,
    checkpoints: guessCheckpoints(models.checkpoints),
    // The engine loads at need and does not say what it holds.
    isModelLoaded: null,
  };
}

function isOffered(sampler: NodeInfo, name: Scheduler): boolean {
  const { sampler: wanted, scheduler } = samplers[name];
  return offers(sampler, "sampler_name", wanted) && offers(sampler, "scheduler", scheduler);
}

/** Names under which the base models are commonly published. */
const published = {
  "SD1.5": /v1[-_.]?5|sd[-_.]?1[-_.]?5|sd15|sd-v1|stable-diffusion-v1|(?<![\d.])1\.5(?!\d)/i,
  SD2: /(?<![a-z])v2[-_.][01]|sd[-_.]?v?2(?!\d\d)|768-v-ema|512-base-ema|stable-diffusion-2/i,
} as const;
/** Fine for painting over or for another purpose, not as the base. */
const variants = /inpaint|depth|refiner|upscal|xl/i;

/** Prefers the plainest name, for that is most likely the base model itself. */
export function guessCheckpoints(names: readonly string[]): ProbeReport["checkpoints"] {
  const guess: ProbeReport["checkpoints"] = {};
  for (const base of ["SD1.5", "SD2"] as const) {
    const [plainest] = names
      .filter((name) => published[base].test(name) && !variants.test(name))
      .sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    if (plainest) guess[base] = plainest;
  }
  return guess;
}

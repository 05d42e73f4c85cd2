/** What an engine says of itself. */
import type { ModelType, ProbeReport, Scheduler } from "../driver.ts";
import { schedulers } from "../driver.ts";
import { guessCheckpoints } from "../guess-checkpoints.ts";
import { features, queue, systemStats } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { samplers } from "./graphs.ts";
import { listModels } from "./models.ts";
import { findNode, type NodeInfo, offers } from "./object-info.ts";
import { findTrainingNodes } from "./training-nodes.ts";

/** @param reachesHost whether we can put files on the engine's host, which some model types take */
export async function probe(client: ComfyClient, reachesHost: boolean, signal: AbortSignal): Promise<ProbeReport> {
  // Alone and first: it tells a ComfyUI from whatever else may answer there.
  const { system, devices } = await client.get("/system_stats", systemStats, signal);
  const [waiting, models, limits, sampler, lora, hypernetwork, training] = await Promise.all([
    client.get("/queue", queue, signal),
    listModels(client, signal),
    client.find("/features", features, signal),
    findNode(client, "KSampler", signal),
    findNode(client, "LoraLoader", signal),
    findNode(client, "HypernetworkLoader", signal),
    findTrainingNodes(client, signal),
  ]);
  const known = sampler ? schedulers.filter((scheduler) => isOffered(sampler, scheduler)) : [];
  const apply: ModelType[] = lora ? ["lora", "ckp"] : ["ckp"];
  if (reachesHost) apply.push("ti");
  if (reachesHost && hypernetwork) apply.push("hyper");
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
      apply,
      train: training ? ["lora"] : [],
      schedulers: known,
      // What is too large to be sent is put on the host.
      maxUploadBytes: reachesHost ? null : (limits?.max_upload_size ?? null),
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

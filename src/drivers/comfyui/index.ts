/** The driver for ComfyUI: pictures and LoRA training over the engine's own HTTP and WebSocket API. */
import type { Driver, EngineTarget } from "../driver.ts";
import { openHostFiles } from "../host-files/index.ts";
import { cancelRun } from "./cancel.ts";
import { ComfyClient } from "./client.ts";
import { parseHandle, prepareHandle } from "./handle.ts";
import { listModels } from "./models.ts";
import { probe } from "./probe.ts";
import { startRun } from "./start.ts";
import { viewStream } from "./view.ts";
import { defaultPace, type WatchPace, watchRun } from "./watch.ts";

export interface ComfyuiOptions {
  /** Limit of one small request; uploads and downloads are bounded by the caller's signal alone. */
  requestTimeoutMs?: number;
  pace?: Partial<WatchPace>;
}

/** How many canceled runs are remembered; a watcher asks within seconds. */
const canceledAtMost = 1_000;

export function createComfyuiDriver(options: ComfyuiOptions = {}): Driver {
  const pace = { ...defaultPace, ...options.pace };
  const connect = (target: EngineTarget) => new ComfyClient(target, options.requestTimeoutMs ?? 15_000);
  const canceled = new Set<string>();
  return {
    engine: "comfyui",
    hostFiles: (target) => openHostFiles(target),
    probe: (target, signal) => probe(connect(target), openHostFiles(target) !== null, signal),
    listModels: (target, signal) => listModels(connect(target), signal),
    prepare: prepareHandle,
    start: async (target, handle, job, signal) => {
      canceled.delete(handle.runId);
      await startRun(connect(target), openHostFiles(target), parseHandle(handle), job, signal);
    },
    watch: (target, handle, signal) =>
      watchRun(connect(target), parseHandle(handle), signal, pace, () => canceled.has(handle.runId)),
    fetch: (target, artifact, signal) => viewStream(connect(target), artifact.locator, signal),
    cancel: async (target, handle, signal) => {
      const { promptId, runId } = parseHandle(handle);
      canceled.add(runId);
      for (const oldest of canceled) {
        if (canceled.size <= canceledAtMost) break;
        canceled.delete(oldest);
      }
      await cancelRun(connect(target), promptId, signal);
    },
  };
}

export const comfyui = createComfyuiDriver();

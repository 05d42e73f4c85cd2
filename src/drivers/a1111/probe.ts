/** What an engine says of itself, and which of the family it is. */
import { z } from "zod";
import type { ModelType, ProbeReport } from "../driver.ts";
import { guessCheckpoints } from "../guess-checkpoints.ts";
import { memory, options, pendingTasks, version } from "./answers.ts";
import type { Engine } from "./engine.ts";
import { listModels, refreshRoutes } from "./models.ts";
import { offeredSchedulers } from "./samplers.ts";
import { getProgress, isIdle } from "./state.ts";
import { engineRoot } from "./train.ts";

type Family = "A1111" | "Forge" | "SD.Next";

export async function probe({ client, files }: Engine, signal: AbortSignal): Promise<ProbeReport> {
  // Alone and first: it tells the family from whatever else may answer there, sd.cpp included.
  const now = await getProgress(client, signal);
  const hasRoute = (path: string) => isPostRoute(client, path, signal);
  const [next, modules, models, settings, pending, sizes, schedulers] = await Promise.all([
    client.find("/sdapi/v1/version", version, signal),
    client.find("/sdapi/v1/sd-modules", z.array(z.unknown()), signal),
    listModels(client, signal),
    client.get("/sdapi/v1/options", options, signal),
    client.find("/internal/pending-tasks", pendingTasks, signal),
    client.find("/sdapi/v1/memory", memory, signal),
    offeredSchedulers(client, signal),
  ]);
  const family: Family = next ? "SD.Next" : modules ? "Forge" : "A1111";
  // Forge parses the tag and applies nothing, SD.Next is not known to apply it either.
  const types: ModelType[] = family === "A1111" ? ["lora", "ckp", "hyper", "ti"] : ["lora", "ckp", "ti"];
  const apply: ModelType[] = [];
  // What we put there must be seen without a restart.
  for (const type of types) if (files && (await hasRoute(refreshRoutes[type]))) apply.push(type);
  const train: ModelType[] = [];
  // It reads the pictures from its own disk, and leaves the model there.
  if (files && (await engineRoot(client, signal))) {
    if (await hasRoute("/sdapi/v1/train/embedding")) train.push("ti");
    if (await hasRoute("/sdapi/v1/train/hypernetwork")) train.push("hyper");
  }
  const device = sizes?.cuda?.system ?? sizes?.ram;
  return {
    engine: "a1111",
    version: [family, next?.updated].filter(Boolean).join(" "),
    devices: device
      ? [
          {
            name: sizes?.cuda ? "cuda" : "cpu",
            type: sizes?.cuda ? "cuda" : "cpu",
            memoryTotalBytes: device.total,
            memoryFreeBytes: device.free,
          },
        ]
      : [],
    queue: { running: isIdle(now) ? 0 : 1, waiting: pending?.size ?? 0 },
    capabilities: { infer: schedulers.length > 0, apply, train, schedulers, maxUploadBytes: null },
    models,
    checkpoints: guessCheckpoints(models.checkpoints),
    isModelLoaded: settings.sd_model_checkpoint ? true : null,
  };
}

/** Asked with the wrong method, a route that exists says so, and nothing happens. */
function isPostRoute(client: Engine["client"], path: string, signal: AbortSignal): Promise<boolean> {
  return client.request(path, signal, {}, async (response) => {
    await response.body?.cancel();
    return response.status === 405;
  });
}

/** Finds out with which nodes, of which generation, an engine trains a LoRA. */
import type { ComfyClient } from "./client.ts";
import type { TrainingNodes } from "./graphs.ts";
import { findNode } from "./object-info.ts";

/** Null when the engine has no complete set. */
export async function findTrainingNodes(client: ComfyClient, signal: AbortSignal): Promise<TrainingNodes | null> {
  const find = (name: string) => findNode(client, name, signal);
  const [train, saveLora, saveLoraNode, load, encode, batch] = await Promise.all([
    find("TrainLoraNode"),
    find("SaveLoRA"),
    find("SaveLoRANode"),
    find("LoadImageTextDataSetFromFolder"),
    find("MakeTrainingDataset"),
    find("LoadImageTextSetFromFolderNode"),
  ]);
  const saveClass = saveLora ? "SaveLoRA" : saveLoraNode ? "SaveLoRANode" : null;
  if (!train || !saveClass) return null;
  if (load && encode) return { train, saveClass, lists: { load, encode } };
  return batch ? { train, saveClass, batch } : null;
}

/** The files that a finished run has left on its engine. */
import type { Artifact } from "../driver.ts";
import type { HistoryEntry } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { findFile, toArtifact } from "./view.ts";

/** Pictures, as the history names them; previews and other passing files are left out. */
export function findImages(entry: HistoryEntry): Artifact[] {
  return Object.values(entry.outputs)
    .flatMap((output) => output.images ?? [])
    .filter((file) => file.type === "output")
    .map((file) => toArtifact("image", file));
}

/** A run of ours saves once; more files are left by an engine that broke while it saved. Bounds the search only. */
const mostFiles = 20;

/**
 * A trained model, which the history does not mention: looked up by the name that the engine must have given it. The
 * counter goes up with the files that are there, so the last is ours.
 */
export async function findModel(client: ComfyClient, prefix: string, signal: AbortSignal): Promise<Artifact | null> {
  const subfolder = prefix.slice(0, prefix.lastIndexOf("/"));
  const name = prefix.slice(prefix.lastIndexOf("/") + 1);
  let last: Artifact | null = null;
  for (let counter = 1; counter <= mostFiles; counter++) {
    const file = { filename: `${name}_${String(counter).padStart(5, "0")}_.safetensors`, subfolder, type: "output" };
    if (!(await findFile(client, file, signal))) break;
    last = toArtifact("model", file);
  }
  return last;
}

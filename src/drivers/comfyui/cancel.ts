/** Ends one run and nothing else on its engine. */

import { pause } from "../pause.ts";
import { jobCanceled } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { queued } from "./state.ts";

/** A run may start between a look and an act, and the engine drops an interrupt that hits a run's very first moment. */
const rounds = 3;
const pauseMs = 100;

export async function cancelRun(client: ComfyClient, promptId: string, signal: AbortSignal): Promise<void> {
  // Newer builds do it in one step; older ones have no such route.
  const path = `/api/jobs/${encodeURIComponent(promptId)}/cancel`;
  const answer = await client.find(path, jobCanceled, signal, { method: "POST", json: {} }).catch((error) => {
    if (signal.aborted) throw error;
    return null;
  });
  if (answer?.cancelled) return;
  for (let round = 0; round < rounds; round++) {
    if (round > 0) await pause(pauseMs, signal);
    const state = await queued(client, promptId, signal);
    if (!state) return;
    // The oldest builds interrupt whatever runs, named or not: only ask when it has just been seen to be ours.
    if (state.at === "waiting") await client.post("/queue", { delete: [promptId] }, signal);
    else await client.post("/interrupt", { prompt_id: promptId }, signal);
  }
}

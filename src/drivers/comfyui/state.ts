/** Where a run stands, by polling: the truth that the socket only hints at. */
import { EngineError } from "../driver.ts";
import { type HistoryEntry, history, queue } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { executionError } from "./refusals.ts";

export type RunState =
  /** `position` counts the runs before it, the running one included. */
  { at: "waiting"; position: number } | { at: "running" } | { at: "ended"; entry: HistoryEntry } | { at: "unknown" };

/**
 * The engine moves a run from its queue to its history between two requests of ours: only history, queue and history
 * again, in this order, show that it knows nothing of a run.
 */
export async function findRun(client: ComfyClient, promptId: string, signal: AbortSignal): Promise<RunState> {
  return (
    (await ended(client, promptId, signal)) ??
    (await queued(client, promptId, signal)) ??
    (await ended(client, promptId, signal)) ?? { at: "unknown" }
  );
}

/** Whether the engine has a run, in whichever state. It goes from the queue to the history: asked in this order, none slips through. */
export async function isKnownRun(client: ComfyClient, promptId: string, signal: AbortSignal): Promise<boolean> {
  return (await queued(client, promptId, signal)) !== null || (await ended(client, promptId, signal)) !== null;
}

async function ended(client: ComfyClient, promptId: string, signal: AbortSignal): Promise<RunState | null> {
  const entries = await client.get(`/history/${encodeURIComponent(promptId)}`, history, signal);
  const entry = entries[promptId];
  return entry ? { at: "ended", entry } : null;
}

/** Where a run stands in the queue, or null when it is neither running nor waiting. */
export async function queued(
  client: ComfyClient,
  promptId: string,
  signal: AbortSignal,
): Promise<{ at: "running" } | { at: "waiting"; position: number } | null> {
  const { queue_running, queue_pending } = await client.get("/queue", queue, signal);
  if (queue_running.some(([, id]) => id === promptId)) return { at: "running" };
  const own = queue_pending.find(([, id]) => id === promptId);
  if (!own) return null;
  // The list is a heap, not an order: count by number.
  const before = queue_pending.filter(([number]) => number < own[0]).length;
  return { at: "waiting", position: queue_running.length + before };
}

export type Outcome = { is: "finished" } | { is: "canceled" } | { is: "failed"; error: EngineError };

/** How an ended run ended. An interrupted one has the status "error" too: only its messages tell. */
export function judge(entry: HistoryEntry): Outcome {
  const said = new Map((entry.status?.messages ?? []).map(([name, data]) => [name, data]));
  const error = said.get("execution_error");
  if (said.has("execution_interrupted")) return { is: "canceled" };
  if (error) return { is: "failed", error: executionError(error) };
  if (entry.status?.status_str === "success") return { is: "finished" };
  return { is: "failed", error: new EngineError("engine-failed", "The engine failed without a word") };
}

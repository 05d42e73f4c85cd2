/** What following a picture and following a training have in common. */
import type { EngineEvent } from "../driver.ts";
import type { Story } from "../story.ts";
import type { Outcome } from "./runs.ts";

export interface Watcher {
  /** Looks once and tells the story. @returns the last events of the run, or null while it goes on. @throws EngineError */
  look(signal: AbortSignal): Promise<EngineEvent[] | null>;
}

/** The engine takes a run from one list before it puts it on the next: one look that finds nothing proves nothing. */
export const looksUntilLost = 3;

/** The last events of a run that ended so. What they imply is told first. */
export function conclude(story: Story, outcome: Exclude<Outcome, { is: "cut" }>): EngineEvent[] {
  if (outcome.is === "canceled") return [{ type: "canceled" }];
  if (outcome.is === "failed") return [{ type: "failed", error: outcome.error }];
  story.started();
  story.saving();
  return [...outcome.artifacts.map((artifact) => ({ type: "artifact" as const, artifact })), { type: "finished" }];
}

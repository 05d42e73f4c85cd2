/** Bears an engine's short absences and slips. */
import { setTimeout as wait } from "node:timers/promises";
import { EngineError } from "../drivers/driver.ts";

const firstPauseMs = 100;
const longestPauseMs = 2_000;

export interface Patience {
  /** With an engine that cannot be reached, from the first failure on; null leaves the end to the signal, which the stall limit aborts. */
  awayMs: number | null;
  /** How many errors in its answers are borne. */
  errors?: number;
}

/**
 * Does `work` again while the engine cannot be reached, with growing pauses. Only for what may be done twice.
 *
 * @throws whatever else `work` throws, and the EngineError that is one too many
 */
export async function persist<T>(
  signal: AbortSignal,
  { awayMs, errors = 0 }: Patience,
  work: () => Promise<T>,
): Promise<T> {
  let since: number | null = null;
  let left = errors;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(longestPauseMs, pauseMs * 2)) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof EngineError) || signal.aborted) throw error;
      if (error.errorClass === "unreachable") {
        since ??= performance.now();
        if (awayMs !== null && performance.now() - since > awayMs) throw error;
      } else if (error.errorClass !== "engine-failed" || left-- <= 0) throw error;
      await wait(pauseMs, undefined, { signal });
    }
  }
}

/** Bears an engine's short absences. */
import { setTimeout as wait } from "node:timers/promises";
import { EngineError } from "../drivers/driver.ts";

const firstPauseMs = 100;
const longestPauseMs = 2_000;

/**
 * Does `work` again for as long as the engine cannot be reached, with growing pauses. Only for what may be done twice.
 *
 * @param patienceMs from the first failure on; null leaves the end to the signal, which the stall limit aborts
 * @throws whatever else `work` throws, and EngineError "unreachable" when the patience is at its end
 */
export async function persist<T>(signal: AbortSignal, patienceMs: number | null, work: () => Promise<T>): Promise<T> {
  let since: number | null = null;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(longestPauseMs, pauseMs * 2)) {
    try {
      return await work();
    } catch (error) {
      const isAway = error instanceof EngineError && error.errorClass === "unreachable";
      if (!isAway || signal.aborted) throw error;
      since ??= performance.now();
      if (patienceMs !== null && performance.now() - since > patienceMs) throw error;
      await wait(pauseMs, undefined, { signal });
    }
  }
}

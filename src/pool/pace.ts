/** How fast an engine goes, from the progress of one attempt. */
import type { Progress } from "./follow.ts";
import type { Pace } from "./outcome.ts";

/** Only the time between steps counts: neither loading nor saving, nor what lies between two pictures. */
export function createPace(now: () => number = () => performance.now()) {
  let steps = 0;
  let elapsedMs = 0;
  let last: { step: number; at: number } | null = null;
  return {
    observe({ phase, step }: Progress): void {
      if (phase !== "steps") {
        last = null;
        return;
      }
      const at = now();
      if (last && step > last.step) {
        steps += step - last.step;
        elapsedMs += at - last.at;
      }
      if (!last || step !== last.step) last = { step, at };
    },
    /** Null until two steps have been seen. */
    measured: (): Pace | null => (elapsedMs > 0 ? { steps, perSecond: (steps * 1000) / elapsedMs } : null),
  };
}

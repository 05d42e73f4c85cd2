/** Keeps long CPU work polite: the engine draws on the same thread that answers /queue and /ws. */

/** Below what a client notices, and rare enough that yielding itself costs nothing. */
const sliceMs = 12;

/**
 * A function to await inside long loops: it returns to the event loop once a slice of CPU time is used up, else at
 * once. Timers of zero would do as well but are clamped to a millisecond or more; an immediate is not.
 */
export function createPace(): () => Promise<void> | undefined {
  let startedAt = performance.now();
  return () => {
    if (performance.now() - startedAt < sliceMs) return undefined;
    return new Promise((resolve) =>
      setImmediate(() => {
        startedAt = performance.now();
        resolve();
      }),
    );
  };
}

/** Waits until `ms` have passed since `startedAt` (of `performance.now`); no time left means no wait. */
export async function waitUntil(startedAt: number, ms: number): Promise<void> {
  const left = startedAt + ms - performance.now();
  if (left > 0) await new Promise((resolve) => setTimeout(resolve, left));
}

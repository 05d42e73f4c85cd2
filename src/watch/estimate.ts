/** Time left, from the progress that was seen. */

/** The pace of the last half minute counts: engines load first, and slow down when they share a machine. */
const windowMs = 30_000;
/** Less than this, in points of a hundred and in time, is no pace yet. */
const least = { points: 3, ms: 800 };

export interface Estimate {
  /** @param progress 0 to 100; a lower one than before starts over */
  add(progress: number, atMs: number): void;
  /** Seconds, or null while nobody can know. */
  secondsLeft(nowMs: number): number | null;
}

export function createEstimate(): Estimate {
  let seen: { progress: number; at: number }[] = [];
  return {
    add(progress, at) {
      const last = seen.at(-1);
      if (last && progress < last.progress) seen = [];
      if (last?.progress === progress) return;
      seen.push({ progress, at });
      while (seen.length > 2 && at - (seen[1]?.at ?? at) > windowMs) seen.shift();
    },
    secondsLeft(now) {
      const [first, last] = [seen[0], seen.at(-1)];
      if (!first || !last) return null;
      const points = last.progress - first.progress;
      const ms = last.at - first.at;
      if (points < least.points || ms < least.ms) return null;
      const left = ((100 - last.progress) * ms) / points - (now - last.at);
      return Math.max(0, left) / 1000;
    },
  };
}

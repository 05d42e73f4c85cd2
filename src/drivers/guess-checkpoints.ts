/** Which checkpoint file stands for which base model. */
import type { ProbeReport } from "./driver.ts";

/** Names under which the base models are commonly published. */
const published = {
  "SD1.5": /v1[-_.]?5|sd[-_.]?1[-_.]?5|sd15|sd-v1|stable-diffusion-v1|(?<![\d.])1\.5(?!\d)/i,
  SD2: /(?<![a-z])v2[-_.][01]|sd[-_.]?v?2(?!\d\d)|768-v-ema|512-base-ema|stable-diffusion-2/i,
} as const;
/** Fine for painting over or for another purpose, not as the base. */
const variants = /inpaint|depth|refiner|upscal|xl/i;

/** Prefers the plainest name, for that is most likely the base model itself. */
export function guessCheckpoints(names: readonly string[]): ProbeReport["checkpoints"] {
  const guess: ProbeReport["checkpoints"] = {};
  for (const base of ["SD1.5", "SD2"] as const) {
    const [plainest] = names
      .filter((name) => published[base].test(name) && !variants.test(name))
      .sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    if (plainest) guess[base] = plainest;
  }
  return guess;
}

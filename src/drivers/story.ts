/**
 * Turns what polling and pushing tell of a run, in any order and more than once, into one story: queued, started,
 * progress that only goes forward, a preview now and then.
 */
import type { EngineEvent, Phase } from "./driver.ts";

const phases: readonly Phase[] = ["loading", "steps", "saving"];
/** At most two previews a second. */
const previewEveryMs = 500;

export class Story {
  private position: number | null = null;
  private isStarted = false;
  private phase = -1;
  private step = 0;
  private previewedAt = Number.NEGATIVE_INFINITY;

  /** @param steps what progress is counted against */
  constructor(
    private readonly steps: number,
    private readonly tell: (event: EngineEvent) => void,
  ) {}

  waiting(position: number): void {
    if (this.isStarted || position === this.position) return;
    this.position = position;
    this.tell({ type: "queued", position });
  }

  running(): void {
    this.started();
    this.advance("loading", 0);
  }

  /** Also for a run that had ended before anyone looked. */
  started(): void {
    if (this.isStarted) return;
    this.isStarted = true;
    this.tell({ type: "started" });
  }

  saving(): void {
    this.advance("saving", this.steps);
  }

  /** `share` of the steps done, 0 to 1: the engine's bar may count otherwise than we do. */
  stepped(share: number, loss?: number): void {
    this.advance("steps", Math.round(Math.max(0, Math.min(share, 1)) * this.steps), loss);
  }

  preview({ contentType, bytes }: { contentType: string; bytes: Uint8Array }): void {
    const now = performance.now();
    if (now - this.previewedAt < previewEveryMs) return;
    this.previewedAt = now;
    this.running();
    this.tell({ type: "preview", contentType, bytes });
  }

  private advance(phase: Phase, step: number, loss?: number): void {
    const rank = phases.indexOf(phase);
    if (rank < this.phase || (rank === this.phase && step <= this.step)) return;
    this.phase = rank;
    this.step = step;
    this.tell({ type: "progress", phase, step, total: this.steps, ...(loss === undefined ? {} : { loss }) });
  }
}

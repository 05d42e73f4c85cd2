/**
 * Turns what polling and the socket tell of a run, in any order and more than once, into one story: queued, started,
 * progress that only goes forward, a preview now and then.
 */
import type { EngineEvent, Phase } from "../driver.ts";
import type { Frame } from "./frames.ts";
import { savingNodes, stepsNode } from "./graphs.ts";
import type { ComfyHandle } from "./handle.ts";

const phases: readonly Phase[] = ["loading", "steps", "saving"];
/** At most four previews a second. */
const previewEveryMs = 250;

export class Narrator {
  private position: number | null = null;
  private isStarted = false;
  private phase = -1;
  private step = 0;
  private previewedAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly handle: ComfyHandle,
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

  /** Returns true when the frame hints that the run has ended. */
  frame(frame: Frame): boolean {
    if (frame.type === "preview") {
      if (frame.promptId === null || frame.promptId === this.handle.promptId) this.preview(frame);
      return false;
    }
    const { name, data } = frame;
    // The frame that tells a newly connected client what is running names no run; the client's id is ours alone.
    if (data.prompt_id !== undefined && data.prompt_id !== this.handle.promptId) return false;
    switch (name) {
      case "execution_start":
      case "execution_cached":
        this.running();
        return false;
      case "executing":
        if (data.node === null) return true;
        this.running();
        if (data.node === stepsNode) this.advance("steps", 0);
        if (savingNodes.includes(String(data.node))) this.advance("saving", this.handle.steps);
        return false;
      case "progress":
        this.running();
        if (data.node === stepsNode) this.count(data);
        return false;
      case "progress_state": {
        this.running();
        const nodes = data.nodes as Record<string, Record<string, unknown> | undefined> | undefined;
        if (nodes?.[stepsNode]) this.count(nodes[stepsNode]);
        return false;
      }
      case "execution_success":
      case "execution_error":
      case "execution_interrupted":
        return true;
      default:
        return false;
    }
  }

  /** The bar may count otherwise than we do: with gradient accumulation, in micro-steps. */
  private count({ value, max }: Record<string, unknown>): void {
    if (typeof value !== "number" || typeof max !== "number" || !(max > 0)) return;
    this.advance("steps", Math.round(Math.min(value / max, 1) * this.handle.steps));
  }

  private advance(phase: Phase, step: number): void {
    const rank = phases.indexOf(phase);
    if (rank < this.phase || (rank === this.phase && step <= this.step)) return;
    this.phase = rank;
    this.step = step;
    this.tell({ type: "progress", phase, step, total: this.handle.steps });
  }

  private preview({ contentType, bytes }: { contentType: string; bytes: Uint8Array }): void {
    const now = performance.now();
    if (now - this.previewedAt < previewEveryMs) return;
    this.previewedAt = now;
    this.running();
    this.tell({ type: "preview", contentType, bytes });
  }
}

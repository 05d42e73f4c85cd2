/** Tells a run's story from the frames of the engine's socket. */
import type { EngineEvent } from "../driver.ts";
import { Story } from "../story.ts";
import type { Frame } from "./frames.ts";
import { savingNodes, stepsNode } from "./graphs.ts";
import type { ComfyHandle } from "./handle.ts";

export class Narrator extends Story {
  constructor(
    private readonly handle: ComfyHandle,
    tell: (event: EngineEvent) => void,
  ) {
    super(handle.steps, tell);
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
        if (data.node === stepsNode) this.stepped(0);
        if (savingNodes.includes(String(data.node))) this.saving();
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

  /** With gradient accumulation, the engine's bar counts in micro-steps. */
  private count({ value, max }: Record<string, unknown>): void {
    if (typeof value === "number" && typeof max === "number" && max > 0) this.stepped(value / max);
  }
}

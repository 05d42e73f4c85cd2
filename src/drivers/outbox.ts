/** Events on their way to whoever iterates over a run. */
import type { EngineEvent } from "./driver.ts";

const terminal: readonly EngineEvent["type"][] = ["finished", "failed", "canceled", "lost"];
export const isTerminal = (event: EngineEvent): boolean => terminal.includes(event.type);

export class Outbox {
  private readonly events: EngineEvent[] = [];
  private failure: { reason: unknown } | null = null;
  private isEnded = false;
  private wake: (() => void) | null = null;

  /** Takes nothing more after a terminal event: what comes later is an echo. */
  push(event: EngineEvent): void {
    if (this.isEnded) return;
    this.isEnded = isTerminal(event);
    const last = this.events.at(-1);
    // A reader slower than the engine gets the newest state rather than a backlog.
    const isNewer = last?.type === event.type && (event.type === "preview" || event.type === "queued");
    if (isNewer || (last?.type === "progress" && event.type === "progress" && last.phase === event.phase)) {
      this.events.pop();
    }
    this.events.push(event);
    this.wake?.();
  }

  /** Makes the next read throw, ahead of whatever is waiting. */
  fail(reason: unknown): void {
    this.failure ??= { reason };
    this.wake?.();
  }

  async next(): Promise<EngineEvent> {
    for (;;) {
      if (this.failure) throw this.failure.reason;
      const event = this.events.shift();
      if (event) return event;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }
}

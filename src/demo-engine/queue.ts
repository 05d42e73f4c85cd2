/** Waiting, running and finished prompts. In memory only: a restart forgets them all, as in ComfyUI. */
import type { Graph } from "./graph.ts";

export interface QueueItem {
  /** The order of execution, lowest first. */
  number: number;
  promptId: string;
  prompt: Graph;
  extraData: Record<string, unknown>;
  /** Ids of the output nodes to execute. */
  outputs: string[];
}

/** What an execution leaves behind. */
export interface Outcome {
  isSuccess: boolean;
  outputs: Record<string, unknown>;
  meta: Record<string, unknown>;
  messages: [event: string, data: Record<string, unknown>][];
}

/** The form of a queue item on the wire: an array. */
export function itemToWire(item: QueueItem): unknown[] {
  return [item.number, item.promptId, item.prompt, item.extraData, item.outputs];
}

const maxHistory = 10_000;

export class PromptQueue {
  private readonly pending: QueueItem[] = [];
  private running: QueueItem | null = null;
  /** Keyed by prompt id, oldest first; the same id run twice keeps the later one. */
  private readonly history = new Map<string, unknown>();
  private wake: (() => void) | null = null;

  /** @param onChange called whenever the number of waiting and running prompts may have changed */
  constructor(private readonly onChange: () => void) {}

  get remaining(): number {
    return this.pending.length + (this.running === null ? 0 : 1);
  }

  get runningId(): string | null {
    return this.running?.promptId ?? null;
  }

  put(item: QueueItem): void {
    // Equal numbers keep their order of arrival.
    const after = this.pending.findIndex((other) => other.number > item.number);
    this.pending.splice(after < 0 ? this.pending.length : after, 0, item);
    this.onChange();
    this.wake?.();
  }

  /** Waits for the next item and marks it as running; null once `signal` is aborted. */
  async take(signal: AbortSignal): Promise<QueueItem | null> {
    while (!signal.aborted) {
      const item = this.pending.shift();
      if (item !== undefined) {
        this.running = item;
        this.onChange();
        return item;
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        signal.onabort = () => resolve();
      });
    }
    return null;
  }

  /** Moves the running item to the history. */
  finish(item: QueueItem, outcome: Outcome): void {
    this.running = null;
    while (this.history.size >= maxHistory) {
      const [oldest] = this.history.keys();
      if (oldest !== undefined) this.history.delete(oldest);
    }
    this.history.delete(item.promptId);
    this.history.set(item.promptId, {
      prompt: itemToWire(item),
      outputs: outcome.outputs,
      status: {
        status_str: outcome.isSuccess ? "success" : "error",
        completed: outcome.isSuccess,
        messages: outcome.messages,
      },
      meta: outcome.meta,
    });
    this.onChange();
  }

  /** Takes one waiting prompt out. It leaves no trace; a running or unknown one is left alone. */
  deletePending(promptId: string): void {
    const index = this.pending.findIndex((item) => item.promptId === promptId);
    if (index < 0) return;
    this.pending.splice(index, 1);
    this.onChange();
  }

  clearPending(): void {
    this.pending.length = 0;
    this.onChange();
  }

  /** `GET /queue`. */
  list(): { queue_running: unknown[]; queue_pending: unknown[] } {
    return {
      queue_running: this.running === null ? [] : [itemToWire(this.running)],
      queue_pending: this.pending.map(itemToWire),
    };
  }

  /** `GET /history`: without an offset the last `maxItems`, in order of finishing. */
  listHistory(maxItems: number | null, offset: number | null): Record<string, unknown> {
    const entries = [...this.history];
    const start = offset !== null && offset >= 0 ? offset : Math.max(0, entries.length - (maxItems ?? entries.length));
    return Object.fromEntries(entries.slice(start, maxItems === null ? undefined : start + maxItems));
  }

  /** `GET /history/{id}`: empty for what is unknown or not finished yet. */
  findHistory(promptId: string): Record<string, unknown> {
    const entry = this.history.get(promptId);
    return entry === undefined ? {} : { [promptId]: entry };
  }

  deleteHistory(promptId: string): void {
    this.history.delete(promptId);
  }

  clearHistory(): void {
    this.history.clear();
  }
}

/**
 * Faults on purpose, for tests of what lives off engines: switched on when the engine is started, then armed by its
 * endpoint `/faults` or for one request by the header `X-Fault`. Chances are drawn from a seed, so a run with the same
 * requests in the same order goes wrong in the same places.
 */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { PythonError } from "./python.ts";
import type { QueueItem } from "./queue.ts";
import { createRandom, type Random } from "./random.ts";

/** What befalls one HTTP request. */
const requestKinds = [
  "refuse", // answers `status`, 503 when left out, and does nothing
  "error", // the same with 500
  "late", // answers `ms` later
  "drop", // does what was asked and breaks the connection off instead of answering
  "drop-socket", // breaks off every WebSocket
] as const;

/** What befalls one prompt, at its `step`; 0 is before the first, while models load. */
const promptKinds = [
  "hang", // stands still until it is interrupted or the faults are cleared
  "out-of-memory",
  "fail",
  "die", // the engine breaks off everything, is gone for `ms`, and comes back with an empty queue and history
  "duplicate", // every event of the prompt is sent twice
  "wrong-file", // what it saves is no picture and no model
] as const;

export const faultSchema = z.strictObject({
  kind: z.enum([...requestKinds, ...promptKinds]),
  step: z.int().min(0).default(1),
  ms: z.int().min(0).max(600_000).default(1_000),
  status: z.int().min(400).max(599).optional(),
  /** Requests whose path begins so. */
  path: z.string().default("/prompt"),
  /** How likely it strikes whenever it could. */
  chance: z.number().min(0).max(1).default(1),
  /** How often it strikes at most; null for no limit. */
  times: z.int().min(1).nullable().default(1),
});
export type Fault = z.infer<typeof faultSchema>;
type PromptFault = Fault & { kind: (typeof promptKinds)[number] };

const isPromptFault = (fault: Fault): fault is PromptFault => promptKinds.some((kind) => kind === fault.kind);

/** How often a prompt's work was begun here, and how it ended; begun twice for one id is work done twice. */
export interface Computed {
  begun: number;
  finished: number;
  /** Failed, interrupted, or finished with a wrong file. */
  failed: number;
}

/** A line of the journal. */
export interface Deed {
  id: string;
  what: keyof Computed;
  /** Which nodes drew or trained from which seed, `KSampler 7`: what was to be made, under whichever id. */
  makes: string[];
  /** In ms since 1970. */
  at: number;
}

export interface FaultOptions {
  /** 0 when left out. */
  seed?: number;
}

export class Faults {
  private armed: Fault[] = [];
  private readonly ordered = new Map<string, PromptFault[]>();
  private readonly striking = new Map<string, PromptFault[]>();
  private readonly counts = new Map<string, Computed>();
  private readonly random: Random;
  private readonly journal: string;
  private hold = new AbortController();

  /**
   * @param directory keeps the count, also over a kill of the whole program
   * @param die called when the engine shall die for so many ms; returns at once
   */
  constructor(
    { seed = 0 }: FaultOptions,
    directory: string,
    private readonly die: (ms: number) => void,
  ) {
    this.random = createRandom(`faults ${seed}`);
    this.journal = join(directory, "computed.jsonl");
    if (!existsSync(this.journal)) return;
    for (const line of readFileSync(this.journal, "utf8").split("\n").filter(Boolean)) {
      const { id, what }: Deed = JSON.parse(line);
      this.computedOf(id)[what] += 1;
    }
  }

  arm(faults: Fault[]): void {
    this.armed.push(...faults);
  }

  /** Takes all faults away and lets go what hangs. */
  clear(): void {
    this.armed = [];
    this.ordered.clear();
    this.striking.clear();
    this.hold.abort();
    this.hold = new AbortController();
  }

  get list(): readonly Fault[] {
    return this.armed;
  }

  get computed(): ReadonlyMap<string, Computed> {
    return this.counts;
  }

  /** What befalls a request: what its header asks for, else what is armed. */
  forRequest(path: string, ordered: Fault | null): Fault[] {
    if (ordered) return isPromptFault(ordered) ? [] : [ordered];
    return this.strike((fault) => !isPromptFault(fault) && path.startsWith(fault.path));
  }

  /** Keeps the fault that came with a prompt until it runs. */
  order(promptId: string, fault: Fault | null): void {
    if (fault && isPromptFault(fault)) this.ordered.set(promptId, [fault]);
  }

  begin({ promptId, prompt }: Pick<QueueItem, "promptId" | "prompt">): void {
    const makes = Object.values(prompt).flatMap(({ class_type, inputs }) =>
      typeof inputs.seed === "number" ? `${class_type} ${inputs.seed}` : [],
    );
    this.note(promptId, "begun", makes);
    const faults = this.ordered.get(promptId) ?? this.strike(isPromptFault);
    this.ordered.delete(promptId);
    this.striking.set(promptId, faults.filter(isPromptFault));
  }

  end(promptId: string, isSuccess: boolean): void {
    this.note(promptId, isSuccess && !this.has(promptId, "wrong-file") ? "finished" : "failed");
    this.striking.delete(promptId);
  }

  has(promptId: string, kind: "duplicate" | "wrong-file"): boolean {
    return this.striking.get(promptId)?.some((fault) => fault.kind === kind) ?? false;
  }

  /**
   * Called at each step of a prompt, from 0.
   * @param checkInterrupt throws when the prompt shall end, and is asked all the while it hangs
   */
  async atStep(promptId: string, step: number, checkInterrupt: () => void): Promise<void> {
    for (const { kind, ms } of this.striking.get(promptId)?.filter((fault) => fault.step === step) ?? []) {
      if (kind === "die") this.die(ms);
      if (kind === "out-of-memory") throw new PythonError("torch.OutOfMemoryError", "CUDA out of memory. (demo)");
      if (kind === "fail") throw new PythonError("RuntimeError", "a fault that was asked for");
      if (kind !== "hang") continue;
      const { signal } = this.hold;
      while (!signal.aborted) {
        checkInterrupt();
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    checkInterrupt();
  }

  private strike(applies: (fault: Fault) => boolean): Fault[] {
    const struck = this.armed.filter((fault) => applies(fault) && (fault.chance === 1 || this.random() < fault.chance));
    for (const fault of struck) if (fault.times !== null) fault.times -= 1;
    this.armed = this.armed.filter((fault) => fault.times !== 0);
    return struck;
  }

  private note(id: string, what: keyof Computed, makes: string[] = []): void {
    this.computedOf(id)[what] += 1;
    const deed: Deed = { id, what, makes, at: Date.now() };
    appendFileSync(this.journal, `${JSON.stringify(deed)}\n`);
  }

  private computedOf(promptId: string): Computed {
    const known = this.counts.get(promptId) ?? { begun: 0, finished: 0, failed: 0 };
    this.counts.set(promptId, known);
    return known;
  }
}

/** Follows a run to its end by looking at its folder, over one connection as long as that holds. */
import { setTimeout as wait } from "node:timers/promises";
import { type Artifact, EngineError, type EngineEvent, type EngineTarget } from "../driver.ts";
import { SshConnection } from "../ssh/connection.ts";
import { Story } from "../story.ts";
import type { KohyaHandle } from "./handle.ts";
import { runFolder } from "./host.ts";
import { type BarUpdate, TrainingLog } from "./log.ts";
import { judge } from "./outcome.ts";
import { readStatus, type Status } from "./status.ts";
import { outputName } from "./training-files.ts";

export interface WatchPace {
  /** Between two looks at a run, and between two attempts to reach its host. */
  everyMs: number;
}

export const defaultPace: WatchPace = { everyMs: 1_000 };

export async function* watchRun(
  target: EngineTarget,
  handle: KohyaHandle,
  signal: AbortSignal,
  pace: WatchPace,
): AsyncGenerator<EngineEvent> {
  signal.throwIfAborted();
  const teller = new Teller(handle);
  let ssh: SshConnection | null = null;
  try {
    for (;;) {
      let status: Status | null = null;
      try {
        if (!ssh?.isOpen) ssh = await SshConnection.open(target, signal);
        status = await readStatus(ssh, runFolder(target, handle.runId), teller.offset, signal);
      } catch (error) {
        signal.throwIfAborted();
        // Whatever the host answers: it may be on its way up, or an admin at work on its record.
        if (!(error instanceof EngineError)) throw error;
        ssh?.close();
        ssh = null;
      }
      if (status) {
        yield* teller.tell(status);
        if (teller.isOver) return;
      }
      if (!status?.isMore) await wait(pace.everyMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  } finally {
    ssh?.close();
  }
}

/** Turns one look after another into a story that only goes forward. */
class Teller {
  /** Bytes of the log that have been read. */
  offset = 0;
  isOver = false;
  private events: EngineEvent[] = [];
  private readonly story: Story;
  private readonly log = new TrainingLog();
  private readonly shown = new Set<string>();
  private readonly sizes = new Map<string, number>();

  constructor(private readonly handle: KohyaHandle) {
    this.story = new Story(handle.steps, (event) => this.events.push(event));
  }

  tell(status: Status): EngineEvent[] {
    this.events = [];
    const isFinal = !["starting", "running"].includes(status.state) && !status.isMore;
    this.offset += status.log.length;
    const updates = this.log.push(status.log);
    if (isFinal) updates.push(...this.log.end());
    if (status.state !== "unknown" && status.state !== "starting") this.story.running();
    for (const update of updates) this.step(update, status.resumed);
    this.showSamples(status, isFinal);
    if (isFinal) this.end(status);
    return this.events;
  }

  /** The bar counts what this run has to do, the story the whole training. */
  private step({ step, total, loss }: BarUpdate, resumed: number): void {
    const { steps } = this.handle;
    if (step > 0 && total > 0) this.story.stepped((resumed + (step / total) * (steps - resumed)) / steps, loss);
    if (step === total) this.story.saving();
  }

  /** A picture is written in place: whole when the run is over, or when it has not grown since the last look. */
  private showSamples({ samples, resumed }: Status, isFinal: boolean): void {
    for (const { name, size } of samples) {
      const isWhole = isFinal || (size > 0 && this.sizes.get(name) === size);
      this.sizes.set(name, size);
      if (!isWhole || this.shown.has(name)) continue;
      this.shown.add(name);
      const artifact = this.artifact("sample", "image/png", `sample/${name}`);
      this.events.push({ type: "artifact", artifact: { ...artifact, step: resumed + stepOf(name) } });
    }
  }

  private end(status: Status): void {
    const outcome = judge(status, this.log.lines);
    this.isOver = true;
    if (outcome.is === "failed") {
      this.events.push({ type: "failed", error: outcome.error });
      return;
    }
    if (outcome.is === "finished") {
      const file = `${outputName}.safetensors`;
      this.events.push({ type: "artifact", artifact: this.artifact("model", "application/octet-stream", file) });
    }
    this.events.push({ type: outcome.is });
  }

  private artifact(role: Artifact["role"], contentType: string, path: string): Artifact {
    return { role, contentType, locator: { runId: this.handle.runId, path } };
  }
}

/** `model_000100_00_20261125221500_7.png`: of this run's own counting. */
const stepOf = (name: string): number => Number(/_(\d{6,})_/.exec(name)?.[1] ?? 0);

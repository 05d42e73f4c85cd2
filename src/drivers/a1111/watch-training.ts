/**
 * Where a training's run stands. The engine knows trainings by no id: what can be known is our own request while this
 * process holds it open, what the engine tells of the one training that it does, and what lies on its host's disk.
 */
import type { EngineEvent } from "../driver.ts";
import type { Story } from "../story.ts";
import type { Progress } from "./answers.ts";
import type { Engine } from "./engine.ts";
import type { A1111Handle } from "./handle.ts";
import { getProgress, isIdle, isTraining, names } from "./state.ts";
import { cleanUp, readTraces } from "./training-files.ts";
import { conclude, looksUntilLost, type Watcher } from "./watcher.ts";

export class TrainingWatcher implements Watcher {
  private doubts = 0;
  private lastSign = "";
  private silentSince: number | null = null;

  constructor(
    private readonly engine: Engine,
    private readonly handle: A1111Handle,
    private readonly story: Story,
  ) {}

  async look(signal: AbortSignal): Promise<EngineEvent[] | null> {
    const { client, runs, pace } = this.engine;
    const own = runs.find(this.handle.runId);
    if (own && !own.isSubmitted && !own.outcome) {
      if (own.isCanceled) return conclude(this.story, { is: "canceled" });
      this.story.waiting(1);
      return null;
    }
    const now = await getProgress(client, signal);
    const outcome = own?.outcome ?? null;
    if (outcome && outcome.is !== "cut") return conclude(this.story, outcome);
    if (isTraining(now) && (own || (await this.isOurs(now, signal)))) {
      this.doubts = 0;
      this.silentSince = null;
      this.tell(now);
      return null;
    }
    if (own && !outcome) {
      if (!isIdle(now)) {
        this.silentSince = null;
        this.story.running();
        return null;
      }
      this.silentSince ??= performance.now();
      return performance.now() - this.silentSince < pace.silentMs ? null : this.over(signal);
    }
    // Other work hides whether ours goes on beside it, and after that it looks idle: only its steps still count.
    const sign = `${now.state.job_no} ${now.textinfo}`;
    const isQuiet = isIdle(now) && (sign === this.lastSign || this.lastSign === "");
    this.lastSign = sign;
    this.silentSince = isQuiet ? (this.silentSince ?? performance.now()) : null;
    this.doubts = isQuiet ? this.doubts + 1 : 0;
    if (this.doubts < looksUntilLost) return null;
    const isLong = performance.now() - (this.silentSince ?? 0) >= pace.silentMs;
    return isLong || !(await this.isUnfinished(signal)) ? this.over(signal) : null;
  }

  /** Whether the training that the engine does is this one: by what it tells of it, or since this one is under way. */
  private async isOurs(now: Progress, signal: AbortSignal): Promise<boolean> {
    if (names(now, this.handle)) return true;
    return this.isUnfinished(signal);
  }

  private async isUnfinished(signal: AbortSignal): Promise<boolean> {
    const { files } = this.engine;
    if (!files) return false;
    return (await readTraces(files, this.handle, false, signal)).isOpen;
  }

  private tell({ state, textinfo }: Progress): void {
    this.story.running();
    const loss = textinfo?.match(/Loss: ([\d.]+(?:e[+-]?\d+)?)/)?.[1];
    const step = textinfo?.match(/Step: (\d+)/)?.[1];
    if (step)
      this.story.stepped(Math.max(state.job_no, Number(step)) / this.handle.steps, loss ? Number(loss) : undefined);
  }

  /** The engine does nothing any more: what is on the disk decides. */
  private async over(signal: AbortSignal): Promise<EngineEvent[]> {
    const { files, runs } = this.engine;
    if (files) {
      const { result } = await readTraces(files, this.handle, true, signal);
      await cleanUp(files, this.handle, signal);
      if (result) return conclude(this.story, { is: "finished", artifacts: [result] });
    }
    return runs.wasCanceled(this.handle.runId) ? conclude(this.story, { is: "canceled" }) : [{ type: "lost" }];
  }
}

/**
 * Where a picture's run stands. What can be known of it: our own request, while this process holds it open; the task's
 * state by its id, as long as the engine lives and remembers; and whether the engine does anything at all.
 */
import { EngineError, type EngineEvent } from "../driver.ts";
import type { Story } from "../story.ts";
import type { TaskProgress } from "./answers.ts";
import type { Engine } from "./engine.ts";
import type { A1111Handle } from "./handle.ts";
import { findTask, getProgress, isIdle, isKnown } from "./state.ts";
import { conclude, looksUntilLost, type Watcher } from "./watcher.ts";

export class PictureWatcher implements Watcher {
  private previewId = -1;
  /** The engine has told of the task by its id. */
  private isSeen = false;
  /** The connection broke, and the engine went on with the run all the same. */
  private isOrphan = false;
  private doubts = 0;
  private silentSince: number | null = null;

  constructor(
    private readonly engine: Engine,
    private readonly handle: A1111Handle,
    private readonly story: Story,
  ) {}

  async look(signal: AbortSignal): Promise<EngineEvent[] | null> {
    const { client, runs } = this.engine;
    const own = runs.find(this.handle.runId);
    const isAnswered = () => own?.outcome != null && own.outcome.is !== "cut";
    const task = isAnswered() ? null : await findTask(client, this.handle.taskId, signal, this.previewId);
    // Read only now: the answer may have come while the engine was asked.
    const outcome = own?.outcome ?? null;
    if (outcome && outcome.is !== "cut") return conclude(this.story, outcome);
    if (task && (task.active || task.queued)) {
      this.isSeen = true;
      this.isOrphan = outcome !== null;
      // A run that broke stays on the engine's lists. While our request is open, its answer tells.
      if ((!own || outcome) && (await this.isLeftOver(signal))) return this.gone(this.isOrphan);
      this.doubts = 0;
      if (own && !outcome) this.silentSince = null;
      if (task.active) this.tell(task);
      else if (runs.wasCanceled(this.handle.runId)) return conclude(this.story, { is: "canceled" });
      else this.story.waiting(positionOf(task));
      return null;
    }
    if (own && !outcome) return this.awaitAnswer(task, own.isCanceled, signal);
    if (isKnown(task)) return this.gone(own !== null);
    // Builds that let us choose no ids know nothing of any run: ours may be what keeps them busy.
    if (!this.isSeen && !isIdle(await getProgress(client, signal))) this.doubts = 0;
    else this.doubts += 1;
    return this.doubts < looksUntilLost ? null : this.gone(this.isOrphan);
  }

  /** Whether the engine has done nothing for so long that what it lists as active or queued cannot be. */
  private async isLeftOver(signal: AbortSignal): Promise<boolean> {
    if (!isIdle(await getProgress(this.engine.client, signal))) this.silentSince = null;
    else this.silentSince ??= performance.now();
    return this.silentSince !== null && performance.now() - this.silentSince >= this.engine.pace.silentMs;
  }

  /** Our request is open, and the engine does not tell of the run by its id. */
  private async awaitAnswer(task: TaskProgress | null, isCanceled: boolean, signal: AbortSignal) {
    const state = await getProgress(this.engine.client, signal);
    if (isKnown(task) || !isIdle(state)) {
      this.silentSince = null;
      if (isKnown(task)) return null;
      // Nothing can be interrupted that cannot be told from other people's work.
      if (isCanceled) return conclude(this.story, { is: "canceled" });
      this.story.running();
      return null;
    }
    this.silentSince ??= performance.now();
    return performance.now() - this.silentSince < this.engine.pace.silentMs ? null : this.gone(false);
  }

  private tell(task: TaskProgress): void {
    this.story.running();
    if (task.progress) this.story.stepped(task.progress);
    const [, contentType, data] = task.live_preview?.match(/^data:([^;,]+);base64,(.+)$/s) ?? [];
    if (!contentType || !data) return;
    this.previewId = task.id_live_preview ?? this.previewId;
    this.story.preview({ contentType, bytes: new Uint8Array(Buffer.from(data, "base64")) });
  }

  /** The run is over or forgotten, and its picture is nowhere. */
  private gone(hasRun: boolean): EngineEvent[] {
    if (this.engine.runs.wasCanceled(this.handle.runId)) return conclude(this.story, { is: "canceled" });
    if (!hasRun) return [{ type: "lost" }];
    // Told apart from a restart: a proxy that cuts every long request would have it made again without end.
    const error = new EngineError(
      "engine-failed",
      "The connection broke before the engine could hand over the picture",
    );
    return conclude(this.story, { is: "failed", error });
  }
}

/** "In queue: 2/3" for the second of those that wait, behind the one that runs. */
function positionOf(task: TaskProgress): number {
  const place = typeof task.textinfo === "string" ? task.textinfo.match(/In queue: (\d+)\//)?.[1] : undefined;
  return Math.max(1, Number(place ?? 1));
}

/**
 * The runs that this process has given to engines. The engine answers only when the work is done and keeps no result,
 * so the open request is the run: whoever holds it gets the picture, and nobody else ever can.
 */
import type { Artifact, EngineError } from "../driver.ts";

export type Outcome =
  | { is: "finished"; artifacts: Artifact[] }
  | { is: "failed"; error: EngineError }
  /** Somebody interrupted it: what the engine answered then is only a part. */
  | { is: "canceled" }
  /** The connection broke: nobody knows how it goes on, and its answer is gone. */
  | { is: "cut" };

export interface OwnRun {
  /** False while it waits in this process for its turn. */
  isSubmitted: boolean;
  isCanceled: boolean;
  /** Null while it goes on. */
  outcome: Outcome | null;
  /** Never rejects. */
  ended: Promise<Outcome>;
}

/** Results are pictures: kept for a job that is tried again after an error of the database, not for long. */
const kept = { count: 32, ms: 10 * 60_000 };
/** How many canceled runs are remembered; a watcher asks within seconds. */
const canceledAtMost = 1_000;

export class OwnRuns {
  private readonly runs = new Map<string, OwnRun>();
  private readonly canceled = new Set<string>();
  private readonly lines = new Map<string, Promise<unknown>>();

  find(runId: string): OwnRun | null {
    return this.runs.get(runId) ?? null;
  }

  wasCanceled(runId: string): boolean {
    return this.canceled.has(runId);
  }

  cancel(runId: string): void {
    const run = this.runs.get(runId);
    if (run && !run.outcome) run.isCanceled = true;
    this.canceled.add(runId);
    for (const oldest of this.canceled) {
      if (this.canceled.size <= canceledAtMost) break;
      this.canceled.delete(oldest);
    }
  }

  /** A run of which the engine has never heard may begin again. */
  forget(runId: string): void {
    this.runs.delete(runId);
  }

  /** Begins a run; `work` resolves when the engine has answered, and must not reject. */
  begin(runId: string, work: (run: OwnRun) => Promise<Outcome>): OwnRun {
    this.canceled.delete(runId);
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    const run: OwnRun = { isSubmitted: false, isCanceled: false, outcome: null, ended: promise };
    this.runs.set(runId, run);
    void work(run).then((outcome) => {
      // A run that was interrupted answers like one that has finished.
      run.outcome = run.isCanceled && outcome.is !== "cut" ? { is: "canceled" } : outcome;
      this.forgetLater(runId);
      resolve(run.outcome);
    });
    return run;
  }

  /** One after the other for each `place`. */
  inLine<T>(place: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.lines.get(place) ?? Promise.resolve()).then(work);
    this.lines.set(
      place,
      turn.catch(() => {}),
    );
    return turn;
  }

  private forgetLater(runId: string): void {
    setTimeout(() => this.runs.delete(runId), kept.ms).unref?.();
    const ended = [...this.runs].filter(([, run]) => run.outcome);
    for (const [oldest] of ended.slice(0, Math.max(0, ended.length - kept.count))) this.runs.delete(oldest);
  }
}

/** Follows a run to its end by polling; how much can be seen of it depends on its kind. */
import { EngineError, type EngineEvent } from "../driver.ts";
import { pause } from "../pause.ts";
import { Story } from "../story.ts";
import type { Engine } from "./engine.ts";
import type { A1111Handle } from "./handle.ts";
import { PictureWatcher } from "./watch-picture.ts";
import { TrainingWatcher } from "./watch-training.ts";

export async function* watchRun(engine: Engine, handle: A1111Handle, signal: AbortSignal): AsyncGenerator<EngineEvent> {
  const told: EngineEvent[] = [];
  const story = new Story(handle.steps, (event) => told.push(event));
  const watcher =
    handle.kind === "train" ? new TrainingWatcher(engine, handle, story) : new PictureWatcher(engine, handle, story);
  let pauseMs = engine.pace.firstMs;
  for (;;) {
    signal.throwIfAborted();
    const end = await watcher.look(signal).catch((error) => {
      signal.throwIfAborted();
      // Also "unauthorized" and "wrong-engine": a proxy answers so while what is behind it comes up.
      if (error instanceof EngineError) return null;
      throw error;
    });
    const isNews = told.length > 0;
    yield* told.splice(0);
    if (end) return yield* end;
    pauseMs = isNews ? engine.pace.firstMs : Math.min(pauseMs * 1.5, engine.pace.mostMs);
    const own = engine.runs.find(handle.runId);
    const waiting = own && !own.outcome ? [own.ended] : [];
    await Promise.race([...waiting, pause(pauseMs, signal)]).catch((error) => {
      signal.throwIfAborted();
      throw error;
    });
  }
}

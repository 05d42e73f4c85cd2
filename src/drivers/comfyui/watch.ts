/** Follows a run to its end. Polling is the truth, the socket a hint that makes it quicker and smoother. */
import { type Artifact, EngineError, type EngineEvent } from "../driver.ts";
import { isTerminal, Outbox } from "../outbox.ts";
import type { ComfyClient } from "./client.ts";
import type { ComfyHandle } from "./handle.ts";
import { Narrator } from "./narrator.ts";
import { findImages, findModel, findWholeModel } from "./results.ts";
import { EngineSocket } from "./socket.ts";
import { findRun, judge, type RunState } from "./state.ts";
import { findTrainingNodes } from "./training-nodes.ts";

export interface WatchPace {
  /** Pause between polls right after the start, after a change, and after the socket dropped. */
  firstMs: number;
  /** What the pause grows to while nothing changes. */
  mostMs: number;
  /** A running engine that says nothing for so long may have lost our client: connect again. */
  silentMs: number;
}

/** What one step may take where steps cannot be seen: on a CPU, they take seconds. */
const silentStepMs = { infer: 10_000, train: 60_000 };

export const defaultPace: WatchPace = { firstMs: 200, mostMs: 2_000, silentMs: 15_000 };

export async function* watchRun(
  client: ComfyClient,
  handle: ComfyHandle,
  signal: AbortSignal,
  pace: WatchPace,
  /** Whether this process has canceled the run: the engine keeps no record of one that was only waiting. */
  wasCanceled: () => boolean,
): AsyncGenerator<EngineEvent> {
  signal.throwIfAborted();
  const outbox = new Outbox();
  const watcher = new Watcher(client, handle, pace, outbox, wasCanceled);
  const abort = () => outbox.fail(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  const polling = watcher.poll().catch((error) => outbox.fail(error));
  try {
    for (;;) {
      const event = await outbox.next();
      yield event;
      if (isTerminal(event)) return;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    watcher.close();
    await polling;
  }
}

class Watcher {
  private readonly stop = new AbortController();
  private readonly narrator: Narrator;
  private readonly socket: EngineSocket;
  private pauseMs: number;
  private nudge: (() => void) | null = null;
  /** A hint came while we looked: what was seen may be older than what it told of. */
  private isHurried = false;
  private seen: RunState["at"] | null = null;
  /** Whether the engine tells of its steps at all; null as long as it has not been asked. */
  private isTeller: boolean | null = null;
  private silentForMs = 0;
  /** The connection during which the run was last seen waiting. */
  private waitedDuring: number | null = null;

  constructor(
    private readonly client: ComfyClient,
    private readonly handle: ComfyHandle,
    private readonly pace: WatchPace,
    private readonly outbox: Outbox,
    private readonly wasCanceled: () => boolean,
  ) {
    this.pauseMs = pace.firstMs;
    this.narrator = new Narrator(handle, (event) => outbox.push(event));
    this.socket = new EngineSocket(
      client,
      handle.clientId,
      (frame) => {
        if (this.narrator.frame(frame)) this.hurry();
      },
      () => this.hurry(),
    );
  }

  close(): void {
    this.stop.abort();
    this.socket.close();
    this.nudge?.();
  }

  /** Looks until the run has ended; an engine that does not answer is asked again. */
  async poll(): Promise<void> {
    while (!this.stop.signal.aborted) {
      try {
        if (await this.look()) return;
      } catch (error) {
        if (this.stop.signal.aborted) return;
        // Also "unauthorized" and "wrong-engine": a proxy answers so while what is behind it comes up.
        if (!(error instanceof EngineError)) throw error;
      }
      this.reviveSocket();
      await this.pause();
    }
  }

  /** Polls now, and often for a while. */
  private hurry(): void {
    this.pauseMs = this.pace.firstMs / 4;
    this.isHurried = true;
    this.nudge?.();
  }

  private async look(): Promise<boolean> {
    this.isHurried = false;
    const connection = this.socket.isOpen ? this.socket.connection : null;
    const state = await findRun(this.client, this.handle.promptId, this.stop.signal);
    if (state.at !== this.seen) this.pauseMs = Math.min(this.pauseMs, this.pace.firstMs);
    this.seen = state.at;
    switch (state.at) {
      case "waiting":
        this.waitedDuring = connection;
        this.narrator.waiting(state.position);
        return false;
      case "running":
        this.waitedDuring = null;
        this.narrator.running();
        await this.tellSilence();
        return false;
      case "unknown":
        return await this.vanished(connection);
      case "ended": {
        const outcome = judge(state.entry);
        if (outcome.is === "finished") return this.finish(await this.results(state.entry));
        this.narrator.started();
        this.outbox.push(outcome.is === "failed" ? { type: "failed", error: outcome.error } : { type: "canceled" });
        return true;
      }
    }
  }

  /** Older trainers send nothing while they work, and without a socket nothing comes through. */
  private async tellSilence(): Promise<void> {
    const { kind, steps } = this.handle;
    this.isTeller ??= kind === "infer" || (await findTrainingNodes(this.client, this.stop.signal))?.lists !== undefined;
    const { isOpen, heardAt } = this.socket;
    const isDeaf = !isOpen && Date.now() - heardAt > this.pace.silentMs;
    const forMs = isDeaf || !this.isTeller ? steps * silentStepMs[kind] : 0;
    if (forMs === this.silentForMs) return;
    this.silentForMs = forMs;
    this.outbox.push({ type: "silent", forMs });
  }

  /**
   * A run taken out of the queue leaves no trace. If our connection outlived it, the engine did not restart, so someone
   * took it out; otherwise only our own word tells that from a restart.
   */
  private async vanished(connection: number | null): Promise<boolean> {
    const wasTakenOut = connection !== null && connection === this.waitedDuring && this.socket.isOpen;
    if (this.handle.kind === "train") {
      // Hours of work may lie on the disk of an engine that restarted right after.
      const model = await findWholeModel(this.client, this.handle.outputPrefix, this.stop.signal);
      if (model) return this.finish([model]);
    }
    this.outbox.push({ type: this.wasCanceled() || wasTakenOut ? "canceled" : "lost" });
    return true;
  }

  private async results(entry: Parameters<typeof findImages>[0]): Promise<Artifact[]> {
    if (this.handle.kind === "infer") return findImages(entry);
    const model = await findModel(this.client, this.handle.outputPrefix, this.stop.signal);
    return model ? [model] : [];
  }

  private finish(artifacts: Artifact[]): boolean {
    this.narrator.started();
    if (artifacts.length === 0) {
      const error = new EngineError("engine-failed", "The engine reports success, but there is no result");
      this.outbox.push({ type: "failed", error });
      return true;
    }
    for (const artifact of artifacts) this.outbox.push({ type: "artifact", artifact });
    this.outbox.push({ type: "finished" });
    return true;
  }

  /** Two connections may have had our id for a moment, and the end of the first made the engine forget the second. */
  private reviveSocket(): void {
    const { isOpen, heardAt } = this.socket;
    if (this.seen === "running" && isOpen && Date.now() - heardAt > this.pace.silentMs) this.socket.restart();
  }

  private async pause(): Promise<void> {
    if (this.stop.signal.aborted || this.isHurried) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.pauseMs);
      this.nudge = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.nudge = null;
    this.pauseMs = Math.min(this.pauseMs * 1.5, this.pace.mostMs);
  }
}

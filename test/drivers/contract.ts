/**
 * What every driver must show, whichever engine it speaks to. A driver's test file hands over a way to start an engine,
 * or something that stands in for one.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Driver, EngineEvent, EngineHandle, EngineJob, EngineTarget, Phase } from "../../src/drivers/driver.ts";
import { follow, typesOf } from "./jobs.ts";

export interface ContractEngine {
  target: EngineTarget;
  /** A driver as another process has it: it shares nothing with the ones before. */
  createDriver(): Driver;
  /** A job of several steps that the engine can do; another one at each call. */
  createJob(): EngineJob;
  /** From now on runs stand still in the midst of their steps, or jobs take so long that they are met there. */
  hold(): void;
  release(): void;
  /** Resolves when the engine is at work on the run. */
  running(runId: string): Promise<void>;
  /** How often the engine was given the run. */
  submissions(runId: string): number | Promise<number>;
  /** False when a result comes to the process alone that submitted the run, and dies with it. Default true. */
  keepsResults?: boolean;
  /** How long one test may take; real engines compute. */
  patienceMs?: number;
  stop(): Promise<void>;
}

const phases: Phase[] = ["loading", "steps", "saving"];
const terminal = ["finished", "failed", "canceled", "lost"];

export function driverContract(name: string, setup: () => Promise<ContractEngine>): void {
  describe(`${name} keeps the drivers' contract`, () => {
    let engine: ContractEngine;
    let driver: Driver;
    let signal: AbortSignal;
    beforeEach(async () => {
      engine = await setup();
      driver = engine.createDriver();
      signal = AbortSignal.timeout(engine.patienceMs ?? 10_000);
    });
    afterEach(() => engine.stop());

    async function begin() {
      const job = engine.createJob();
      const handle = driver.prepare(crypto.randomUUID(), job);
      await driver.start(engine.target, handle, job, signal);
      return { handle, job };
    }

    /** Everything that happens to a run, as told to `by`. */
    const storyOf = (handle: EngineHandle, by = driver, until = signal) => follow(by, engine.target, handle, until);

    test("preparing is pure: the same run gives the same plain handle, and nothing is sent", async () => {
      const runId = crypto.randomUUID();
      const job = engine.createJob();
      const handle = driver.prepare(runId, job);
      expect(handle).toEqual(engine.createDriver().prepare(runId, job));
      expect(JSON.parse(JSON.stringify(handle))).toEqual(handle);
      expect(handle).toMatchObject({ engine: driver.engine, runId });
      expect(await engine.submissions(runId)).toBe(0);
    });

    test("a run ends in exactly one terminal event, after its artifacts", async () => {
      const { handle } = await begin();
      const types = typesOf(await storyOf(handle));
      expect(types.filter((type) => terminal.includes(type))).toEqual(["finished"]);
      expect(types.at(-1)).toBe("finished");
      expect(types).toContain("artifact");
      expect(types.indexOf("started")).toBeLessThan(types.indexOf("artifact"));
    });

    test("progress never runs backwards", async () => {
      const { handle } = await begin();
      const events = await storyOf(handle);
      let before = -1;
      for (const event of events) {
        if (event.type !== "progress") continue;
        expect(event.step).toBeLessThanOrEqual(event.total);
        const now = phases.indexOf(event.phase) * (event.total + 1) + event.step;
        expect(now).toBeGreaterThan(before);
        before = now;
      }
    });

    test("starting twice gives the engine the run once, before and after its end", async () => {
      engine.hold();
      const { handle, job } = await begin();
      await engine.createDriver().start(engine.target, handle, job, signal);
      expect(await engine.submissions(handle.runId)).toBe(1);
      engine.release();
      await storyOf(handle);
      await driver.start(engine.target, handle, job, signal);
      expect(await engine.submissions(handle.runId)).toBe(1);
      expect(typesOf(await storyOf(handle)).at(-1)).toBe("finished");
    });

    test("another process follows the run from its handle alone, also after its end", async () => {
      engine.hold();
      const { handle } = await begin();
      const copy = JSON.parse(JSON.stringify(handle));
      const events: EngineEvent[] = [];
      for await (const event of engine.createDriver().watch(engine.target, copy, signal)) {
        events.push(event);
        if (event.type === "started") engine.release();
      }
      if (engine.keepsResults === false) {
        // Never while it may still be running.
        expect(typesOf(events)).toContain("started");
        expect(typesOf(events).at(-1)).toBe("lost");
        expect(typesOf(await storyOf(copy, engine.createDriver()))).toEqual(["lost"]);
        expect(typesOf(await storyOf(handle)).at(-1)).toBe("finished");
        return;
      }
      expect(typesOf(events).at(-1)).toBe("finished");
      const again = await storyOf(copy, engine.createDriver());
      const artifacts = (list: EngineEvent[]) => list.filter((event) => event.type === "artifact");
      expect(artifacts(again)).toEqual(artifacts(events));
      expect(typesOf(again).at(-1)).toBe("finished");
    });

    test("canceling ends the running run, and the one that waits behind it goes on", async () => {
      engine.hold();
      const first = await begin();
      await engine.running(first.handle.runId);
      const second = await begin();
      const story = storyOf(first.handle);
      await driver.cancel(engine.target, first.handle, signal);
      expect(typesOf(await story).at(-1)).toBe("canceled");
      await driver.cancel(engine.target, first.handle, signal);
      engine.release();
      expect(typesOf(await storyOf(second.handle)).at(-1)).toBe("finished");
    });

    test("canceling ends a waiting run, and the one before it goes on", async () => {
      engine.hold();
      const first = await begin();
      await engine.running(first.handle.runId);
      const second = await begin();
      await driver.cancel(engine.target, second.handle, signal);
      await driver.cancel(engine.target, second.handle, signal);
      expect(typesOf(await storyOf(second.handle)).at(-1)).toBe("canceled");
      engine.release();
      expect(typesOf(await storyOf(first.handle)).at(-1)).toBe("finished");
    });

    test("a run that the engine never heard of is lost, and canceling it is no error", async () => {
      const handle = driver.prepare(crypto.randomUUID(), engine.createJob());
      await engine.createDriver().cancel(engine.target, handle, signal);
      expect(typesOf(await storyOf(handle))).toEqual(["lost"]);
    });

    test("an aborted signal ends the watching with its reason, and the run goes on", async () => {
      engine.hold();
      const { handle } = await begin();
      const controller = new AbortController();
      const reason = new Error("enough");
      const story = storyOf(handle, driver, controller.signal);
      await engine.running(handle.runId);
      controller.abort(reason);
      expect(await story.catch((error) => error)).toBe(reason);
      engine.release();
      expect(typesOf(await storyOf(handle)).at(-1)).toBe("finished");
    });

    test("a result is streamed, also to another process", async () => {
      const { handle } = await begin();
      const events = await storyOf(handle);
      const found = events.find((event) => event.type === "artifact");
      if (!found) throw new Error("no artifact");
      const artifact = JSON.parse(JSON.stringify(found.artifact));
      const stream = await engine.createDriver().fetch(engine.target, artifact, signal);
      expect((await new Response(stream).bytes()).length).toBeGreaterThan(0);
    });

    test("an engine that is not there is unreachable", async () => {
      const nowhere = { ...engine.target, port: 1 };
      const error = await driver.probe(nowhere, signal).catch((error) => error);
      expect(error).toMatchObject({ name: "EngineError", errorClass: "unreachable", isRetryable: true });
    });
  });
}

import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import type { Driver, EngineEvent } from "../../src/drivers/driver.ts";
import { follow } from "../../src/pool/follow.ts";
import { inferenceJob } from "../drivers/jobs.ts";

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

/** A run that an engine tells `events` of, and then nothing any more. */
function run(events: EngineEvent[]) {
  const handle = { engine: "comfyui" as const, runId: crypto.randomUUID() };
  async function* watch(_target: unknown, _handle: unknown, signal: AbortSignal): AsyncGenerator<EngineEvent> {
    yield* events;
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  }
  const ended = { is: "running" };
  follow({
    driver: { watch } as unknown as Driver,
    lease: { taskId: 1, serverId: 1, epoch: 1, handle: { part: "train", run: handle } },
    part: "train",
    job: inferenceJob(),
    signal: new AbortController().signal,
    onProgress: async () => {},
  } as unknown as Parameters<typeof follow>[0]).catch((error) => {
    ended.is = `${error.errorClass}: ${error.message}`;
  });
  return async (minutes: number) => {
    for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    jest.advanceTimersByTime(minutes * 60_000);
    for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    return ended.is;
  };
}

const steps: EngineEvent = { type: "progress", phase: "steps", step: 1, total: 10 };

test("a run without progress is given up by the limit of its phase", async () => {
  const after = run([{ type: "started" }, steps]);
  expect(await after(4)).toBe("running");
  expect(await after(1)).toBe("stalled: The engine made no progress for 5 minutes");
});

test("an engine that is known to work in silence has as long as its driver says, and no longer", async () => {
  const after = run([{ type: "started" }, { type: "silent", forMs: 60 * 60_000 }, steps]);
  expect(await after(59)).toBe("running");
  expect(await after(1)).toBe("stalled: The engine made no progress for 60 minutes");
});

test("when the silence is over the usual limits hold again", async () => {
  const after = run([{ type: "silent", forMs: 60 * 60_000 }, steps, { type: "silent", forMs: 0 }]);
  expect(await after(5)).toBe("stalled: The engine made no progress for 5 minutes");
});

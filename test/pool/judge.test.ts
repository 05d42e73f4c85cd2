/** What becomes of a task whose attempt failed. */
import { expect, test } from "bun:test";
import { EngineError, type ErrorClass } from "../../src/drivers/driver.ts";
import { judge } from "../../src/pool/outcome.ts";

const verdict = (errorClass: ErrorClass, tries: number, failures: number) =>
  judge(new EngineError(errorClass, "no"), { tries, failures });

test.each<[ErrorClass, number, number, boolean]>([
  ["bad-input", 1, 0, false],
  ["deadline", 1, 0, false],
  ["engine-failed", 1, 0, true],
  ["engine-failed", 2, 1, true],
  ["engine-failed", 3, 2, false],
  ["out-of-memory", 6, 1, true],
  ["engine-lost", 9, 2, true],
  ["engine-lost", 10, 0, false],
  ["unreachable", 9, 0, true],
  ["unreachable", 10, 0, false],
])("%s at attempt %d after %d failures is tried again: %p", (errorClass, tries, failures, isRetried) => {
  expect(verdict(errorClass, tries, failures).isRetried).toBe(isRetried);
});

test.each<[ErrorClass, boolean, boolean, boolean]>([
  ["out-of-memory", true, true, false],
  ["stalled", true, true, false],
  ["model-missing", true, false, false],
  ["engine-lost", false, false, false],
  ["unreachable", false, false, true],
  ["unauthorized", false, false, true],
])("%s: avoids the server %p, blames it %p, finds it away %p", (errorClass, avoided, blamed, away) => {
  const { isServerAvoided, isServerBlamed, isServerAway } = verdict(errorClass, 1, 0);
  expect([isServerAvoided, isServerBlamed, isServerAway]).toEqual([avoided, blamed, away]);
});

test("the back-off doubles, give or take a half; an engine's first restart is no reason to wait", () => {
  expect(verdict("engine-lost", 1, 0).delaySeconds).toBe(0);
  for (let tries = 1; tries <= 9; tries += 1) {
    const { delaySeconds } = verdict("unreachable", tries, 0);
    expect(delaySeconds).toBeGreaterThanOrEqual(2 ** (tries - 1) * 0.5);
    expect(delaySeconds).toBeLessThanOrEqual(2 ** (tries - 1) * 1.5);
  }
});

/** The bar and the time left. */
import { expect, test } from "bun:test";
import { createEstimate } from "../../src/watch/estimate.ts";
import { createScreen, drawBar, formatSeconds } from "../../src/watch/screen.ts";

const status = { progress: 42, status: "running", detail: "steps", secondsLeft: 12 };

test.each([
  { width: 79, bar: 40 },
  { width: 50, bar: 17 },
  { width: 30, bar: 0 },
  { width: 5, bar: 0 },
])("a bar fits $width columns", ({ width, bar }) => {
  const line = drawBar(status, width);
  expect(line.length).toBeLessThanOrEqual(width);
  expect(line.match(/[█▏▎▍▌▋▊▉░]/g)?.length ?? 0).toBe(bar);
});

test.each([0, 1, 50, 99, 100])("a bar of %p percent is as long as any other", (progress) => {
  expect(drawBar({ ...status, progress }, 79)).toMatch(/^[█▏▎▍▌▋▊▉░]{40} /);
});

test("a terminal gets one line that is redrawn, without colour when none is wanted", () => {
  const written: string[] = [];
  const screen = createScreen({ isTTY: true, columns: 80, write: (text) => written.push(text as string) > 0 }, false);
  screen.show(status);
  screen.show({ ...status, progress: 43 });
  screen.print("Done");
  const erase = "\r\x1b[K";
  const bars = [status, { ...status, progress: 43 }].map((shown) => erase + drawBar(shown, 79));
  expect(written).toEqual([...bars, erase, "Done\n"]);
});

test("a pipe gets a line for every ten points, and for every change of stage", () => {
  const lines: string[] = [];
  const screen = createScreen({ write: (text) => lines.push(text as string) > 0 }, true);
  for (const progress of [0, 4, 9, 10, 11, 25]) screen.show({ ...status, progress, secondsLeft: null });
  screen.show({ ...status, progress: 26, detail: "saving", secondsLeft: null });
  expect(lines).toEqual([
    "running  0 %  steps\n",
    "running  10 %  steps\n",
    "running  25 %  steps\n",
    "running  26 %  saving\n",
  ]);
});

test("the time left follows the measured pace, and counts down between measurements", () => {
  const estimate = createEstimate();
  expect(estimate.secondsLeft(0)).toBeNull();
  estimate.add(0, 0);
  estimate.add(10, 1_000);
  expect(estimate.secondsLeft(1_000)).toBe(9);
  expect(estimate.secondsLeft(3_000)).toBe(7);
  expect(estimate.secondsLeft(60_000)).toBe(0);
  estimate.add(5, 61_000); // another attempt
  expect(estimate.secondsLeft(61_000)).toBeNull();
});

test.each([
  { seconds: 0, text: "0:00" },
  { seconds: 74.2, text: "1:15" },
  { seconds: 3675, text: "1:01:15" },
])("$seconds s reads $text", ({ seconds, text }) => {
  expect(formatSeconds(seconds)).toBe(text);
});

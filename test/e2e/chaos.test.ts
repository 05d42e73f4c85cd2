/** The short form of `bun run bench chaos`: a few tasks, a few deaths. */
import { expect, test } from "bun:test";
import { runChaos } from "../bench/chaos/run.ts";
import { newSeed } from "../helpers/random.ts";

const seed = Number(process.env.CHAOS_SEED ?? newSeed());

test(`whatever dies, every task ends once, and nothing is lost, doubled or left behind (seed ${seed})`, async () => {
  const report = await runChaos({
    seed,
    tasks: 12,
    users: 4,
    engines: { train: 1, infer: 2 },
    workers: 2,
    stepMs: 10,
    pauseMs: { min: 300, max: 900 },
    hardest: false,
    blows: 5,
    limitMs: 90_000,
  });
  expect(report.breaches).toEqual([]);
}, 150_000);

/**
 * `bun run bench chaos [SEED …]`: 500 tasks of 20 users on 8 engines while workers, the API, PostgreSQL and engines are
 * killed and restarted at random. Exits 1, and keeps the logs, when anything was lost, doubled or left behind.
 * `CHAOS_TASKS` orders another number, `CHAOS_SECONDS` gives them another time to end (600).
 */
import { newSeed } from "../helpers/random.ts";
import { runChaos } from "./chaos/run.ts";

const given = process.argv.slice(2).map(Number);
const seeds = given.length > 0 ? given : [newSeed(), newSeed(), newSeed()];
const tasks = Number(process.env.CHAOS_TASKS ?? 500);
let isClean = true;

for (const seed of seeds) {
  console.log(`\nchaos, seed ${seed}: ${tasks} tasks of 20 users on 8 engines`);
  const report = await runChaos({
    seed,
    tasks,
    users: 20,
    engines: { train: 2, infer: 6 },
    workers: 3,
    stepMs: 20,
    pauseMs: { min: 300, max: 1_500 },
    hardest: true,
    blows: Number.POSITIVE_INFINITY,
    limitMs: Number(process.env.CHAOS_SECONDS ?? 600) * 1_000,
    say: (line) => console.log(`  ${line}`),
  });
  const list = (counts: Record<string, number>) =>
    Object.entries(counts)
      .map(([what, count]) => `${what} ${count}×`)
      .join(", ");
  console.log(`  blows:     ${list(report.struck)}`);
  console.log(`  endings:   ${list(report.endings)}`);
  console.log(
    `  computed:  ${report.computed} runs, ${report.repeated} of them again after an engine's death or fault`,
  );
  console.log(`  leftovers: ${report.leftovers} files for the sweep`);
  console.log(`  watched:   ${report.frames} frames`);
  console.log(`  breaches:  ${report.breaches.length} in ${report.seconds} s`);
  for (const breach of report.breaches.slice(0, 30)) console.log(`    ${breach}`);
  if (report.breaches.length > 0) {
    console.log(`  logs and data: ${report.directory}`);
    isClean = false;
  }
}
process.exit(isClean ? 0 : 1);

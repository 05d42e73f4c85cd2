/** `bun run bench lists`: what lists cost at a million rows against ten thousand, in the same run. */
import { type Account, startBenchApp } from "./app.ts";
import { searchHits, searchWords, seed } from "./seed.ts";

const sizes = [10_000, Number(process.env.BENCH_ROWS ?? 1_000_000)];
const rounds = Number(process.env.BENCH_ROUNDS ?? 15);

const filters = [
  "",
  "user_id=1",
  "user_id=1,2,3,4,5,6,7,8,9,10",
  "public=true",
  "tag=tag 1",
  "status=success",
  "status=running",
  "scheduler=K_EULER",
  "base_model=SD2",
  "model_id=1",
  "name=image 7",
  "id=5,500,5000",
];
const sorts = ["sort=createdAt", "sort=updatedAt", "sort=name", "sort=hot"];
const searches = Object.values(searchWords).map((word) => `search=${word}`);

interface Measured {
  first: number;
  last: number;
  total: number;
}

const results = new Map<string, Measured[]>();
for (const size of sizes) {
  const app = await startBenchApp();
  await seed(app.sql, size, (line) => process.stderr.write(`${size}: ${line}\n`));
  const viewers: [string, Account | null][] = [
    ["guest", null],
    ["owner", await app.logIn(1, false)],
    ["admin", await app.logIn(2, true)],
  ];
  for (const query of [...filters, ...sorts, ...searches]) {
    for (const [who, account] of viewers) {
      const ask = (page: number) => app.get(`/api/images?${query}${query ? "&" : ""}page=${page}`, account?.token);
      const { total } = await ask(1);
      const lastPage = Math.max(1, Math.ceil(total / 20));
      const measured = { first: await median(() => ask(1)), last: await median(() => ask(lastPage)), total };
      const key = `${query || "(no filter)"} | ${who}`;
      results.set(key, [...(results.get(key) ?? []), measured]);
    }
  }
  await app.stop();
}

const ms = (value: number) => value.toFixed(2).padStart(8);
process.stdout.write(
  `images, medians of ${rounds} in ms: ${sizes.join(" rows, then ")} rows; searches at ${searchHits} hits\n`,
);
process.stdout.write(
  `${"query | viewer".padEnd(52)}${"first".padStart(16)}  ratio${"last".padStart(18)}  ratio     total\n`,
);
let worst = 0;
for (const [key, [small, large]] of results) {
  if (!small || !large) continue;
  const first = large.first / small.first;
  const last = large.last / small.last;
  worst = Math.max(worst, first, last);
  process.stdout.write(
    `${key.padEnd(52)}${ms(small.first)}${ms(large.first)}${first.toFixed(2).padStart(7)}${ms(small.last).padStart(10)}${ms(large.last)}${last.toFixed(2).padStart(7)}${String(large.total).padStart(10)}\n`,
  );
}
process.stdout.write(`worst ratio: ${worst.toFixed(2)}\n`);

async function median(work: () => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < rounds; i += 1) {
    const started = performance.now();
    await work();
    times.push(performance.now() - started);
  }
  return times.sort((a, b) => a - b)[Math.floor(rounds / 2)] as number;
}

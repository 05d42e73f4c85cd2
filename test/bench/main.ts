/** `bun run bench [NAME] [SETTINGS …]`: the benchmarks, each a ratio against its floor in the same run. */
import { resolve } from "node:path";
import { freshDatabase } from "../helpers/database.ts";

const benches: Record<string, string[]> = {
  rest: ["throughput", "lists", "memory"],
  pool: ["pool-rounds", "pool-asked", "pool-flow", "pool-cost"],
  throughput: ["throughput"],
  lists: ["lists"],
  relay: ["relay", "trouble"],
  idle: ["relay idle"],
  trouble: ["trouble"],
  memory: ["memory"],
  chaos: ["chaos"],
};
const [name = "rest", ...settings] = process.argv.slice(2);
const files = benches[name];
if (!files) {
  process.stderr.write(`There is no bench ${name}; there are: ${Object.keys(benches).join(", ")}\n`);
  process.exit(1);
}
// One server for all of them, so that each seeded database is made once.
const { url, drop } = await freshDatabase();
await drop();
for (const file of files) {
  const [program, ...parts] = file.split(" ");
  const child = Bun.spawn([process.execPath, resolve(import.meta.dirname, `${program}.ts`), ...parts, ...settings], {
    env: { ...process.env, ATELIER_TEST_DATABASE_URL: Object.assign(new URL(url), { pathname: "/postgres" }).href },
    stdio: ["inherit", "inherit", "inherit"],
  });
  if ((await child.exited) !== 0) process.exit(1);
}
process.exit(0);

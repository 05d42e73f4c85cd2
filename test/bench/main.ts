/** `bun run bench [NAME]`: the benchmarks, each a ratio against its floor in the same run. */
import { resolve } from "node:path";

const benches: Record<string, string[]> = {
  rest: ["throughput", "lists"],
  throughput: ["throughput"],
  lists: ["lists"],
};
const [name = "rest"] = process.argv.slice(2);
const files = benches[name];
if (!files) {
  process.stderr.write(`There is no bench ${name}; there are: ${Object.keys(benches).join(", ")}\n`);
  process.exit(1);
}
for (const file of files) {
  const child = Bun.spawn([process.execPath, resolve(import.meta.dirname, `${file}.ts`)], {
    stdio: ["inherit", "inherit", "inherit"],
  });
  if ((await child.exited) !== 0) process.exit(1);
}

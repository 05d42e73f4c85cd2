/** `bun run reindex`: makes all search entries anew, after the folding has changed. The API may run meanwhile. */
import { boot, main } from "./boot.ts";
import { reindex } from "./search/entries.ts";

await main(async () => {
  const { sql } = await boot("reindex", process.env, 2);
  let shown = 0;
  await reindex(sql, (done) => {
    if (done - shown < 10_000) return;
    shown = done;
    process.stdout.write(`${done} rows\n`);
  });
  process.stdout.write("All search entries are up to date.\n");
  await sql.end({ timeout: 5 });
});

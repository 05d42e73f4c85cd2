/** `bun run backup DIRECTORY`: the database and the files, as of one moment, while everything goes on. */
import { withDatabase } from "./admin/with-database.ts";
import { writeBackup } from "./backup/write.ts";
import { BootError, main } from "./boot.ts";
import { openStorage } from "./storage/index.ts";

await main(async () => {
  const [directory, ...rest] = process.argv.slice(2);
  if (!directory || rest.length > 0) throw new BootError("Usage: bun run backup DIRECTORY");
  await withDatabase(async (sql, config) => {
    const { manifest, lost } = await writeBackup(sql, openStorage(config), config, directory);
    const rows = manifest.tables.reduce((sum, table) => sum + table.rows, 0);
    console.log(`${directory}: ${rows} rows, ${manifest.files.count} files of ${manifest.files.bytes} bytes`);
    if (!manifest.has_key) console.log("SECRET_KEY is not in it: keep it elsewhere, nothing can be restored without");
    for (const key of lost) console.error(`${key} is lost: the store does not have it as it was stored`);
    if (lost.length > 0) process.exitCode = 1;
  });
});

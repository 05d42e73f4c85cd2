/** `bun run restore DIRECTORY`: a backup into an empty DATA_DIR, or into the empty database and store of the settings. */
import { withDatabase } from "./admin/with-database.ts";
import { readManifest } from "./backup/manifest.ts";
import { readBackup } from "./backup/read.ts";
import { BootError, main } from "./boot.ts";
import { migrate } from "./db/migrate.ts";
import { openStorage } from "./storage/index.ts";

await main(async () => {
  const [directory, ...rest] = process.argv.slice(2);
  if (!directory || rest.length > 0) throw new BootError("Usage: bun run restore DIRECTORY");
  const manifest = await readManifest(directory);
  await withDatabase(
    async (sql, config, url) => {
      await migrate(url);
      await readBackup(sql, openStorage(config), config, directory, manifest);
      console.log(`Restored what was saved at ${manifest.created_at}: ${manifest.files.count} files`);
    },
    { mayMake: true },
  );
});

/**
 * The seeded databases of the benchmarks. Each is made once on a server: in the throwaway one that means once a run; a
 * server of `ATELIER_TEST_DATABASE_URL` keeps them for the next run.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../src/db/client.ts";
import { migrationsDirectory, readMigrations } from "../../src/db/migrate.ts";
import { freshDatabase } from "../helpers/database.ts";
import { seed } from "./seed.ts";

/** @returns the URL of a database with so many images, see seed.ts */
export async function seededDatabase(images: number): Promise<string> {
  const hash = createHash("sha256").update(readFileSync(join(import.meta.dirname, "seed.ts")));
  for (const { name, checksum } of readMigrations(migrationsDirectory)) hash.update(`${name} ${checksum}\n`);
  const name = `atelier_bench_${images}_${hash.digest("hex").slice(0, 8)}`;

  const fresh = await freshDatabase();
  const at = (database: string) => Object.assign(new URL(fresh.url), { pathname: `/${database}` }).href;
  const admin = connect(at("postgres"), { max: 1, name: "atelier bench" });
  const [made] = await admin`select from pg_database where datname = ${name}`;
  if (!made) {
    const sql = connect(fresh.url, { max: 1, name: "atelier bench" });
    await seed(sql, images, (line) => process.stderr.write(`${images} images: ${line}\n`));
    await sql.end();
    await admin`alter database ${admin(new URL(fresh.url).pathname.slice(1))} rename to ${admin(name)}`;
  }
  await admin.end();
  if (made) await fresh.drop();
  return at(name);
}

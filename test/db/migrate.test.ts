/** The migrator, with small directories of its own. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type Sql } from "../../src/db/client.ts";
import { migrate } from "../../src/db/migrate.ts";
import { type FreshDatabase, freshDatabase } from "../helpers/database.ts";

let database: FreshDatabase;
let sql: Sql;
let directory: string;

beforeAll(async () => {
  database = await freshDatabase({ isMigrated: false });
  sql = connect(database.url, { max: 2 });
});

afterAll(async () => {
  await sql.end();
  await database.drop();
});

beforeEach(async () => {
  await sql.unsafe("drop schema public cascade; create schema public");
  directory = mkdtempSync(join(tmpdir(), "atelier-sql-"));
  put("0001_one.sql", "create table one (id int); insert into one values (1);");
  put("0002_two.sql", "create table two (id int);");
});

afterEach(() => rmSync(directory, { recursive: true }));

function put(name: string, text: string): void {
  writeFileSync(join(directory, name), text);
}

const recorded = async () => (await sql`select name from migrations order by name`).map((row) => row.name);

test("each file is applied once, in order, and the queue's schema is there before", async () => {
  put("0003_three.sql", "create function f() returns void language sql as $$ select graphile_worker.add_job('x') $$");
  expect(await migrate(database.url, { directory })).toEqual(["0001_one.sql", "0002_two.sql", "0003_three.sql"]);
  expect(await migrate(database.url, { directory })).toEqual([]);
  expect(await sql`select id from one`).toHaveLength(1);
});

test.each([
  {
    fault: "a landed file that was edited",
    change: () => put("0001_one.sql", "select 1"),
    says: "0001_one.sql was applied and has changed",
  },
  {
    fault: "a landed file that is gone",
    change: () => rmSync(join(directory, "0002_two.sql")),
    says: "0002_two.sql was applied",
  },
  { fault: "two files of one number", change: () => put("0002_again.sql", "select 1"), says: "have the same number" },
  {
    fault: "a number before the newest",
    change: () => put("0000_late.sql", "select 1"),
    says: "sorts before 0002_two.sql",
  },
  { fault: "a name without a number", change: () => put("three.sql", "select 1"), says: "looks like 0001_users.sql" },
])("$fault is refused", async ({ change, says }) => {
  await migrate(database.url, { directory });
  change();
  await expect(migrate(database.url, { directory })).rejects.toThrow(says);
});

test("line ends that a checkout rewrote do not count as a change", async () => {
  put("0001_one.sql", "create table one (id int);\ninsert into one values (1);\n");
  await migrate(database.url, { directory });
  put("0001_one.sql", "create table one (id int);\r\ninsert into one values (1);\r\n");
  expect(await migrate(database.url, { directory })).toEqual([]);
});

test("a failing file leaves nothing of itself, keeps the ones before, and is named with its line", async () => {
  put("0003_bad.sql", "create table three (id int);\ninsert into three values ('x');");
  await expect(migrate(database.url, { directory })).rejects.toThrow(
    '0003_bad.sql, line 2: invalid input syntax for type integer: "x"',
  );
  expect(await recorded()).toEqual(["0001_one.sql", "0002_two.sql"]);
  expect((await sql`select to_regclass('three') as found`)[0]?.found).toBeNull();
});

test("three processes at once apply each file once", async () => {
  put("0003_slow.sql", "select pg_sleep(0.3); create table three (id int);");
  const script = `
    const { migrate } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/db/migrate.ts"))});
    console.log(JSON.stringify(await migrate(${JSON.stringify(database.url)}, { directory: ${JSON.stringify(directory)} })));`;
  const runs = [1, 2, 3].map(async () => {
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    return JSON.parse(await new Response(child.stdout).text()) as string[];
  });
  const applied = await Promise.all(runs);
  expect(applied.flat().sort()).toEqual(["0001_one.sql", "0002_two.sql", "0003_slow.sql"]);
  expect(applied.filter((names) => names.length > 0)).toHaveLength(1);
});

test("a database with a C locale is refused", async () => {
  const url = new URL(database.url);
  url.pathname = `${url.pathname}_c`;
  const name = url.pathname.slice(1);
  await sql.unsafe(`create database ${name} template template0 locale_provider libc locale 'C' encoding 'UTF8'`);
  try {
    await expect(migrate(url.href, { directory })).rejects.toThrow("C locale");
  } finally {
    await sql.unsafe(`drop database ${name} with (force)`);
  }
});

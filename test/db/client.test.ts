/** What values look like on our side, and what is said of a database that cannot be reached. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, describeDatabaseError, type Sql } from "../../src/db/client.ts";
import { type FreshDatabase, freshDatabase } from "../helpers/database.ts";

// The first test file of a run waits for the server and its template.
setDefaultTimeout(30_000);

let database: FreshDatabase;
let sql: Sql;

beforeAll(async () => {
  database = await freshDatabase({ isMigrated: false });
  sql = connect(database.url, { max: 1 });
});

afterAll(async () => {
  await sql.end();
  await database.drop();
});

test("an int8 is a number, and a string where a number would lie", async () => {
  const [row] = await sql`select 5::int8 as small, 9007199254740993 as large, array[1::int8] as list`;
  expect({ ...row }).toEqual({ small: 5, large: "9007199254740993", list: [1] });
});

test("a timestamp arrives as RFC 3339 in UTC with milliseconds", async () => {
  const [row] =
    await sql`select ${"2027-01-02T03:04:05.123456Z"}::timestamptz as at, ${new Date("2027-01-02")}::timestamptz as other, '2027-01-02'::date as day`;
  expect({ ...row }).toEqual({ at: "2027-01-02T03:04:05.123Z", other: "2027-01-02T00:00:00.000Z", day: "2027-01-02" });
});

const secret = "s3cret%2Fword";

test.each([
  { fault: "nobody listens", change: (url: URL) => (url.port = "1"), says: "no PostgreSQL answers at 127.0.0.1:1" },
  { fault: "an unknown host", change: (url: URL) => (url.hostname = "nowhere.invalid"), says: "nowhere.invalid" },
  {
    fault: "no such database",
    change: (url: URL) => (url.pathname = "/nothing"),
    says: 'there is no database "nothing"',
  },
  { fault: "a wrong password", change: (url: URL) => (url.password = secret), says: 'refuses the user "atelier"' },
])("$fault is told in one line, without the password", async ({ change, says }) => {
  const url = new URL(database.url);
  change(url);
  const own = connect(url.href, { max: 1 });
  const error = await own`select 1`.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  await own.end();
  const line = describeDatabaseError(error, url.href);
  expect(line).toContain(says);
  expect(line).not.toContain(url.password);
  expect(line).not.toContain(decodeURIComponent(url.password));
  expect(line).not.toContain("\n");
});

test("a transaction has its connection to itself, also when that can take no more statements for now", async () => {
  const own = connect(database.url, { max: 2 });
  await own`create table if not exists counted (n int)`;
  const ask = () => own`select ${1}::int`.execute(); // at once, not when it is awaited
  for (let turn = 0; turn < 10; turn += 1) await Promise.all([ask(), ask()]);
  // Each takes up to a hundred statements that it knows: the last of them begins.
  for (let before = 190; before <= 205; before += 1) {
    const asked = Array.from({ length: before }, ask);
    await own.begin((tx) => tx`insert into counted values (${before})`);
    await Promise.all(asked);
  }
  await own.end();
  const [row] = await sql`select count(*) as count from counted`;
  expect(row?.count).toBe(16);
});

test("a password in a message that we do not know is hidden", () => {
  const url = `postgres://me:${secret}@host/db`;
  expect(describeDatabaseError(new Error("cannot parse s3cret/word"), url)).toBe(
    "DATABASE_URL: host:5432: cannot parse ***",
  );
});

describe("a connection that dies", () => {
  /** Terminates the backend behind `held`, and waits until that is known here. */
  async function end(held: Pick<Sql, "unsafe">): Promise<void> {
    const [self] = await held.unsafe<{ pid: number }[]>("select pg_backend_pid() as pid");
    await sql`select pg_terminate_backend(${self?.pid ?? 0})`;
    for (let isOpen = true; isOpen; ) {
      isOpen = await held.unsafe("select 1").then(
        () => true,
        () => false,
      );
    }
  }

  test("under a transaction ends that one, and nothing of it runs on the next connection", async () => {
    const pool = connect(database.url, { max: 1 });
    await sql`create table written (n int)`;
    const reconnected = Promise.withResolvers<void>();
    const done = Promise.withResolvers<void>();
    const torn = pool.begin(async (tx) => {
      await tx`insert into written values (1)`;
      await end(tx as unknown as Sql);
      await reconnected.promise;
      await tx`insert into written values (2)`.catch(() => {});
      await tx`insert into written values (3)`.finally(done.resolve);
    });
    expect(await torn.catch((error) => error.code)).toBe("CONNECTION_CLOSED");
    expect(await pool`select 1 as n`.then(([row]) => row?.n)).toBe(1);
    reconnected.resolve();
    await done.promise;
    expect(await pool`select n from written`).toHaveLength(0);
    await pool.end();
  });

  test("while reserved gives errors to who holds it, and a new one to the others", async () => {
    const pool = connect(database.url, { max: 1 });
    const held = await pool.reserve();
    await end(held);
    for (const _ of [1, 2]) expect(await held`select 1`.catch((error) => error.code)).toBe("CONNECTION_CLOSED");
    expect(await pool`select 2 as n`.then(([row]) => row?.n)).toBe(2);
    held.release();
    expect(await pool`select 3 as n`.then(([row]) => row?.n)).toBe(3);
    await pool.end();
  });
});

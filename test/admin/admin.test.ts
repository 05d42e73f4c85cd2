/** `bun run admin` as a program, on a database of its own. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { verifyPassword } from "../../src/auth/password.ts";
import { createSecrets } from "../../src/auth/secrets.ts";
import { openSession } from "../../src/auth/session.ts";
import { connect, type Sql } from "../../src/db/client.ts";
import { type FreshDatabase, freshDatabase } from "../helpers/database.ts";

const program = join(import.meta.dirname, "../../src/admin.ts");
const oldKey = "the old key, of at least 32 characters";
const newKey = "the new key, of at least 32 characters";
let database: FreshDatabase;
let sql: Sql;
let dataDir: string;

beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { max: 2 });
});
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "atelier-admin-"));
});
afterEach(async () => {
  rmSync(dataDir, { recursive: true, force: true });
  await sql`truncate users, servers, settings restart identity cascade`;
});
afterAll(async () => {
  await sql.end();
  await database.drop();
});

async function admin(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, program, ...args], {
    env: { PATH: process.env.PATH, DATABASE_URL: database.url, DATA_DIR: dataDir, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, err, code };
}

const passwordIn = (text: string) => /the password (\S+) /.exec(text)?.[1] ?? "";
const hashOf = async (email: string) =>
  (await sql<{ password_hash: string }[]>`select password_hash from users where email = ${email}`)[0]?.password_hash ??
  null;

test("create makes an admin who can log in with the password that is shown", async () => {
  const { out, code } = await admin(["create", "mei@example.org"]);
  expect(code).toBe(0);
  expect(await verifyPassword(await hashOf("mei@example.org"), passwordIn(out))).toBe(true);
  expect([...(await sql`select name, admin from users`)]).toEqual([{ name: "mei", admin: true }]);
});

test("create leaves a user alone who exists, however the address is written", async () => {
  await admin(["create", "mei@example.org"]);
  const before = await hashOf("mei@example.org");
  const { err, code } = await admin(["create", "MEI@example.org"]);
  expect(code).toBe(1);
  expect(err).toBe("There is a user MEI@example.org already; reset-password gives them a new password\n");
  expect(await hashOf("mei@example.org")).toBe(before);
});

test("reset-password gives a new password and ends the user's sessions, nobody else's", async () => {
  await admin(["create", "mei@example.org"]);
  await admin(["create", "tao@example.org"]);
  for (const userId of [1, 2]) await openSession(sql, { userId, ip: "", userAgent: "" });
  const { out, code } = await admin(["reset-password", "Mei@example.org"]);
  expect(code).toBe(0);
  expect(await verifyPassword(await hashOf("mei@example.org"), passwordIn(out))).toBe(true);
  const sessions = await sql`select user_id, status from sessions order by user_id`;
  expect([...sessions]).toEqual([
    { user_id: 1, status: "revoked" },
    { user_id: 2, status: "active" },
  ]);
});

test.each([
  { args: [], says: "Usage: bun run admin" },
  { args: ["destroy"], says: "Usage: bun run admin" },
  { args: ["create"], says: "Usage: bun run admin" },
  { args: ["create", "a@example.org", "b"], says: "Usage: bun run admin" },
  { args: ["create", "nobody"], says: '"nobody" is not an email address' },
  { args: ["reset-password", "nobody@example.org"], says: "There is no user nobody@example.org" },
])("misuse is one line and exit code 1: $args", async ({ args, says }) => {
  const { out, err, code } = await admin([...args]);
  expect({ out, code }).toEqual({ out: "", code: 1 });
  expect(err).toStartWith(says);
  expect(err.trimEnd()).not.toContain("\n");
});

test("without any database there is one line that says so", async () => {
  const { err, code } = await admin(["create", "mei@example.org"], { DATABASE_URL: "" });
  expect(code).toBe(1);
  expect(err).toBe(`No database: DATABASE_URL is not set and ${dataDir} holds none\n`);
});

/** Two servers with secrets under `key`, and the database bound to it. */
async function seal(key: string) {
  const { seal: sealed, checkValue } = createSecrets(key);
  await sql`insert into settings (name, value) values ('secret-key', ${checkValue})`;
  await sql`
    insert into servers (name, type, ip, port, password_sealed, private_key_sealed)
    values ('one', 'train', 'a.example', 1, ${sealed("first")}, ${sealed("second")}),
      ('two', 'infer', 'b.example', 2, ${sealed("third")}, null)
  `;
}

async function opened(key: string) {
  const { open } = createSecrets(key);
  const rows = await sql<{ password_sealed: string; private_key_sealed: string | null }[]>`
    select password_sealed, private_key_sealed from servers order by id
  `;
  return rows.flatMap((row) => [row.password_sealed, row.private_key_sealed]).map((value) => value && open(value));
}

const boundTo = async () => (await sql`select value from settings where name = 'secret-key'`)[0]?.value;
const keyFile = () => join(dataDir, "secret-key");

test("rotate-key seals every secret under the key that is given", async () => {
  await seal(oldKey);
  const { out, code } = await admin(["rotate-key"], { SECRET_KEY: oldKey, NEW_SECRET_KEY: newKey });
  expect(code).toBe(0);
  expect(out).toBe("3 sealed values rotated; set SECRET_KEY to the new key and start every process again\n");
  expect(await opened(newKey)).toEqual(["first", "second", "third", null]);
  expect(await boundTo()).toBe(createSecrets(newKey).checkValue);
  expect(existsSync(keyFile())).toBe(false);
});

test("rotate-key makes a key in DATA_DIR when none is given, and takes the place of the one there", async () => {
  await seal(oldKey);
  writeFileSync(keyFile(), oldKey);
  const { out, code } = await admin(["rotate-key"]);
  expect(code).toBe(0);
  const made = readFileSync(keyFile(), "utf8");
  expect(made).not.toBe(oldKey);
  expect(out).not.toContain(made);
  expect(await opened(made)).toEqual(["first", "second", "third", null]);
});

test("rotate-key changes nothing while it cannot open one value", async () => {
  await seal(oldKey);
  writeFileSync(keyFile(), oldKey);
  await sql`update servers set password_sealed = ${createSecrets(newKey).seal("foreign")} where name = 'two'`;
  const before = [...(await sql`select password_sealed from servers order by id`)];
  const { err, code } = await admin(["rotate-key"]);
  expect(code).toBe(1);
  expect(err).toBe("servers 2: password_sealed cannot be opened with the present key; nothing was changed\n");
  expect([...(await sql`select password_sealed from servers order by id`)]).toEqual(before);
  expect(await boundTo()).toBe(createSecrets(oldKey).checkValue);
  expect(readFileSync(keyFile(), "utf8")).toBe(oldKey);
  expect(existsSync(`${keyFile()}.new`)).toBe(false);
});

test("rotate-key finishes what was killed between the database and the file", async () => {
  await seal(newKey);
  writeFileSync(keyFile(), oldKey);
  writeFileSync(`${keyFile()}.new`, newKey);
  const { out, code } = await admin(["rotate-key"]);
  expect(code).toBe(0);
  expect(out).toStartWith("An earlier rotation is finished");
  expect(readFileSync(keyFile(), "utf8")).toBe(newKey);
});

test.each([
  { why: "another key", env: { SECRET_KEY: newKey }, says: "SECRET_KEY is not the one" },
  { why: "no key", env: {}, says: "SECRET_KEY is not set and " },
  { why: "the same key", env: { SECRET_KEY: oldKey, NEW_SECRET_KEY: oldKey }, says: "NEW_SECRET_KEY is the key that" },
  { why: "a short key", env: { SECRET_KEY: oldKey, NEW_SECRET_KEY: "short" }, says: "NEW_SECRET_KEY: must have" },
])("rotate-key refuses $why", async ({ env, says }) => {
  await seal(oldKey);
  const { err, code } = await admin(["rotate-key"], env as Record<string, string>);
  expect(code).toBe(1);
  expect(err).toStartWith(says);
  expect(await opened(oldKey)).toEqual(["first", "second", "third", null]);
});

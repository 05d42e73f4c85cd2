import { expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { hashes } from "../../src/auth/password.ts";
import { type Answer, password, startApp } from "../helpers/app.ts";
import { anotherProcess } from "../helpers/process.ts";

const app = await startApp();
const { sql } = app;
const processes = [anotherProcess(app), anotherProcess(app)] as const;
const [first, second] = processes;

let asked = 0;
const next = () => {
  asked += 1;
  return asked;
};
/** An address that no other test has used. */
const someone = () => `198.51.${Math.floor(asked / 250)}.${1 + (next() % 250)}`;
const unknown = () => `${randomUUID()}@example.com`;
const logIn = (email: string, given: string, from = someone(), call = first) =>
  call("POST", "/api/sessions", { body: { email, password: given }, from });
const statuses = (answers: Answer[]) => answers.map((answer) => answer.status);

// Delays last an hour longer here, so that none ends by itself on a busy machine.
await sql.unsafe(`
  create function lengthen() returns trigger language plpgsql as $$
  begin
    new.blocked_until := new.blocked_until + interval '1 hour';
    return new;
  end $$;
  create trigger lengthen before update on throttles
    for each row when (new.blocked_until > new.used_at) execute function lengthen();
`);
const extraSeconds = 3600;

/** Lets all delays pass. */
const wait = () => sql`update throttles set blocked_until = '-infinity'`;

async function times<T>(count: number, work: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let i = 0; i < count; i += 1) results.push(await work(i));
  return results;
}

test("after five failures an email has to wait, whoever asks and whichever process", async () => {
  const user = await app.signUp();
  expect(statuses(await times(5, (i) => logIn(user.email, `wrong ${i}`)))).toEqual([401, 401, 401, 401, 401]);
  const refused = await logIn(user.email.toUpperCase(), password, someone(), second);
  expect(refused.status).toBe(429);
  expect(refused.body.code).toBe("too-many-requests");
  expect(Number(refused.headers.get("retry-after"))).toBeWithin(1, extraSeconds + 2);
  expect((await logIn(unknown(), "wrong")).status).toBe(401);
});

test("the delay doubles up to five minutes, and ends: nobody is locked out for good", async () => {
  const user = await app.signUp();
  await times(4, () => logIn(user.email, "wrong"));
  const delays = await times(10, async () => {
    await wait();
    await logIn(user.email, "wrong");
    expect((await logIn(user.email, password)).status).toBe(429);
    const [row] = await sql<{ seconds: number }[]>`
      select extract(epoch from blocked_until - used_at)::int as seconds from throttles where blocked_until > used_at
    `;
    return (row?.seconds ?? 0) - extraSeconds;
  });
  expect(delays).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
  await wait();
  expect((await logIn(user.email, password)).status).toBe(201);
});

test("a success starts the email anew, but not the address", async () => {
  const user = await app.signUp();
  const from = someone();
  await times(4, () => logIn(user.email, "wrong", from));
  expect((await logIn(user.email, password, from)).status).toBe(201);
  expect(statuses(await times(5, () => logIn(user.email, "wrong", from)))).toEqual([401, 401, 401, 401, 401]);
  await wait();
  // Nine from this address so far, with a success among them: the tenth is the last that is free.
  expect(statuses(await times(2, () => logIn(unknown(), "wrong", from)))).toEqual([401, 429]);
});

test.each([
  { what: "at one email from many addresses", email: () => "victim@example.com", from: someone },
  { what: "at many emails from one address", email: unknown, from: () => "203.0.113.7" },
  {
    what: "at many emails from one /64",
    email: unknown,
    from: () => `2001:db8:0:1::${next().toString(16)}`,
  },
])("1,000 guesses $what, in parallel and to two processes, cost at most 20 hashes", async ({ email, from }) => {
  const before = hashes.count;
  const answers = await Promise.all(
    Array.from({ length: 1000 }, (_, i) => logIn(email(), `guess ${i}`, from(), processes[i % 2])),
  );
  expect(hashes.count - before).toBeLessThanOrEqual(20);
  expect(answers.filter((answer) => answer.status === 401).length).toBe(hashes.count - before);
  expect(new Set(statuses(answers))).toEqual(new Set([401, 429]));
});

test("many who log in at once from one address all get in", async () => {
  const users = await Promise.all(Array.from({ length: 30 }, () => app.signUp()));
  const from = someone();
  const answers = await Promise.all(users.map((user) => logIn(user.email, password, from)));
  expect(new Set(statuses(answers))).toEqual(new Set([201]));
  const again = await Promise.all(users.map(() => logIn((users[0] as { email: string }).email, password, from)));
  expect(new Set(statuses(again))).toEqual(new Set([201]));
});

test("a right password is not refused for others that are still being looked at", async () => {
  const user = await app.signUp();
  await times(3, () => logIn(user.email, "wrong"));
  const answers = await Promise.all(Array.from({ length: 5 }, () => logIn(user.email, password)));
  expect(statuses(answers)).toEqual([201, 201, 201, 201, 201]);
});

test("an unknown email and a wrong password get the same answers for the same work, throttled or not", async () => {
  const user = await app.signUp();
  const ask = async (email: string) => {
    const answers: [number, string, boolean, number][] = [];
    for (let i = 0; i < 8; i += 1) {
      const before = hashes.count;
      const { status, text, headers } = await logIn(email, "wrong");
      answers.push([status, text.replace(/\d+ s/, ""), headers.has("retry-after"), hashes.count - before]);
      if (i === 5) await wait();
    }
    return answers;
  };
  const known = await ask(user.email);
  expect(known).toEqual(await ask(unknown()));
  expect(known.map(([status]) => status)).toEqual([401, 401, 401, 401, 401, 429, 401, 429]);
  expect(known.map(([, , , hashed]) => hashed)).toEqual([1, 1, 1, 1, 1, 0, 1, 0]);
});

test("a body with faults costs no hash and counts for nothing", async () => {
  const before = hashes.count;
  const answers = await times(12, () =>
    first("POST", "/api/sessions", { body: { email: "a@example.com", password: 5 }, from: "203.0.113.8" }),
  );
  expect(new Set(statuses(answers))).toEqual(new Set([422]));
  expect(hashes.count).toBe(before);
  expect((await logIn(unknown(), "wrong", "203.0.113.8")).status).toBe(401);
});

test("asking by sign-up who has an account is slow, too; signing up is not", async () => {
  const user = await app.signUp();
  const from = someone();
  const signUp = (email: string) => first("POST", "/api/users", { body: { email, password }, from });
  expect(new Set(statuses(await times(12, () => signUp(unknown()))))).toEqual(new Set([201]));
  const taken = statuses(await times(11, () => signUp(user.email)));
  expect(taken).toEqual([...Array(10).fill(409), 429]);
});

test("whoever has found an open session cannot guess its user's password", async () => {
  const user = await app.signUp();
  const change = (current_password: string) =>
    first("PATCH", "/api/account", {
      token: user.token,
      body: { password: "new password", current_password },
      from: someone(),
    });
  expect(statuses(await times(6, (i) => change(`wrong ${i}`)))).toEqual([422, 422, 422, 422, 422, 429]);
  // The owner, who has to log in, is not kept out by that.
  expect((await logIn(user.email, password)).status).toBe(201);
  const rename = await first("PATCH", "/api/account", { token: user.token, body: { name: "Still me" } });
  expect(rename.status).toBe(200);
  await wait();
  expect((await change(password)).status).toBe(200);
});

test("an hour without an attempt forgets the failures", async () => {
  const email = unknown();
  await times(5, () => logIn(email, "wrong"));
  await sql`update throttles set blocked_until = '-infinity', used_at = now() - interval '61 minutes'`;
  expect(statuses(await times(5, () => logIn(email, "wrong")))).toEqual([401, 401, 401, 401, 401]);
});

test("a password changed while it is verified opens no session", async () => {
  const user = await app.signUp();
  // The log-in has verified the old hash when it waits here for the row.
  const holder = await sql.reserve();
  await holder`begin`;
  await holder`update users set password_hash = 'another' where id = ${user.id}`;
  const late = logIn(user.email, password);
  for (;;) {
    const waiting = await sql`
      select from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock' and query like '%for share%'
    `;
    if (waiting.length > 0) break;
  }
  await holder`commit`;
  holder.release();
  expect((await late).status).toBe(401);
});

test("what was typed for an email is stored nowhere", async () => {
  await logIn("my secret password typed too early", "x");
  const rows = await sql`select key from throttles`;
  expect(rows.length).toBeGreaterThan(0);
  expect(JSON.stringify(rows)).not.toContain("my secret");
});

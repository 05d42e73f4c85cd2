import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { patience } from "../../src/rest/idempotency.ts";
import { type Answer, type Json, startApp } from "../helpers/app.ts";
import { makeForm, makePicture } from "../helpers/files.ts";
import { anotherProcess } from "../helpers/process.ts";

const app = await startApp();
const { sql } = app;
const user = await app.signUp();
const stranger = await app.signUp();
const second = anotherProcess(app);

const fresh = () => randomUUID();

function post(path: string, body: Json, key: string, token: string | undefined = user.token): Promise<Answer> {
  return app.call("POST", path, { token, body, headers: { "Idempotency-Key": key } });
}
async function count(table: string): Promise<number> {
  const [row] = await sql<{ count: number }[]>`select count(*) from ${sql(table)}`;
  return row?.count ?? -1;
}
const isReplayed = (answer: Answer) => answer.headers.get("idempotency-replayed") === "true";

test("the same request again is answered by the first answer, to the byte", async () => {
  const key = fresh();
  const first = await post("/api/images", { prompt: "a lake", seed: 7 }, key);
  const before = { images: await count("images"), tasks: await count("tasks") };
  const again = await post("/api/images", { seed: 7, prompt: "a lake" }, key);
  expect(first.status).toBe(201);
  expect(isReplayed(first)).toBe(false);
  expect(again.status).toBe(201);
  expect(isReplayed(again)).toBe(true);
  expect(again.text).toBe(first.text);
  for (const name of ["location", "etag", "content-type"]) {
    expect(again.headers.get(name)).toBe(first.headers.get(name) as string);
  }
  expect({ images: await count("images"), tasks: await count("tasks") }).toEqual(before);
});

test("100 equal requests at once, to two processes, make one row and one job", async () => {
  const key = fresh();
  const rows = { images: await count("images"), jobs: await count("graphile_worker.jobs") };
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, i) =>
      (i % 2 ? second : app.call)("POST", "/api/images", {
        token: user.token,
        body: { prompt: "many" },
        headers: { "Idempotency-Key": key },
      }),
    ),
  );
  expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([201]));
  expect(new Set(answers.map((answer) => answer.text)).size).toBe(1);
  expect(answers.filter((answer) => !isReplayed(answer))).toHaveLength(1);
  expect({ images: await count("images"), jobs: await count("graphile_worker.jobs") }).toEqual({
    images: rows.images + 1,
    jobs: rows.jobs + 1,
  });
});

test.each([
  { what: "another body", path: "/api/datasets", body: { images: [], name: "other" }, as: "user", status: 422 },
  { what: "another path", path: "/api/images", body: { prompt: "x" }, as: "user", status: 201 },
  { what: "another caller", path: "/api/datasets", body: { images: [] }, as: "stranger", status: 201 },
])("a key used again with $what: $status", async ({ path, body, as, status }) => {
  const key = fresh();
  await post("/api/datasets", { images: [] }, key);
  const answer = await post(path, body, key, as === "user" ? user.token : stranger.token);
  expect(answer.status).toBe(status);
  expect(isReplayed(answer)).toBe(false);
  if (status === 422) expect(answer.body.code).toBe("idempotency-key-reused");
});

test("a restart forgets nothing", async () => {
  const key = fresh();
  const options = { token: user.token, body: { images: [] }, headers: { "Idempotency-Key": key } };
  const first = await app.call("POST", "/api/datasets", options);
  const again = await anotherProcess(app)("POST", "/api/datasets", options);
  expect(isReplayed(again)).toBe(true);
  expect(again.text).toBe(first.text);
});

test("only a success is kept: after a refused body the same key takes the corrected one", async () => {
  const key = fresh();
  expect((await post("/api/tags", { name: "" }, key)).status).toBe(422);
  expect((await post("/api/tags", { name: "corrected" }, key)).status).toBe(201);
  expect((await post("/api/tags", { name: "corrected" }, fresh())).status).toBe(409);
});

test("a key lasts for 24 hours", async () => {
  const key = fresh();
  const first = await post("/api/datasets", { images: [] }, key);
  await sql`update idempotency_keys set created_at = now() - interval '23 hours 59 minutes'`;
  expect((await post("/api/datasets", { images: [] }, key)).body.id).toBe(first.body.id);
  await sql`update idempotency_keys set created_at = now() - interval '24 hours 1 second'`;
  const later = await post("/api/datasets", { images: [], name: "later" }, key);
  expect(later.status).toBe(201);
  expect(later.body.id).not.toBe(first.body.id);
  expect((await post("/api/datasets", { images: [], name: "later" }, key)).body.id).toBe(later.body.id);
});

test.each([
  { what: "empty", key: "", status: 400 },
  { what: "with a space", key: "a b", status: 400 },
  { what: "256 characters long", key: "k".repeat(256), status: 400 },
  { what: "255 characters long", key: "k".repeat(255), status: 201 },
  { what: "outside ASCII", key: "schlüssel", status: 400 },
])("a key that is $what: $status", async ({ key, status }) => {
  const answer = await post("/api/datasets", { images: [] }, key);
  expect(answer.status).toBe(status);
  if (status === 400) expect(answer.body.code).toBe("idempotency-key-invalid");
});

test("a body nested beyond the stack is refused with a key, too", async () => {
  const body = `{"images": ${"[".repeat(100_000)}1${"]".repeat(100_000)}}`;
  const headers = { "Content-Type": "application/json", "Idempotency-Key": fresh() };
  expect((await app.call("POST", "/api/datasets", { token: user.token, body, headers })).status).toBe(400);
});

test("a log-in takes no key: its answer holds the token", async () => {
  const body = { email: user.email, password: "a password of tests" };
  const answer = await post("/api/sessions", body, fresh(), undefined);
  expect(answer.status).toBe(400);
  expect(answer.body.code).toBe("idempotency-key-refused");
});

test("a guest signs up once; the same key from another address is another request", async () => {
  const body = { email: "once@example.com", password: "correct horse" };
  const headers = { "Idempotency-Key": fresh() };
  const first = await second("POST", "/api/users", { body, headers, from: "198.51.100.1" });
  const again = await second("POST", "/api/users", { body, headers, from: "198.51.100.1" });
  const other = await second("POST", "/api/users", { body, headers, from: "198.51.100.2" });
  expect([first.status, again.status, other.status]).toEqual([201, 201, 409]);
  expect(again.text).toBe(first.text);
});

describe("uploads", () => {
  const upload = (bytes: Uint8Array, key: string) =>
    app.call("POST", "/api/files", {
      token: user.token,
      body: bytes,
      headers: { "Content-Type": "application/octet-stream", "Idempotency-Key": key },
    });

  test("the same bytes are the same request, however they are packed; others are not", async () => {
    const key = fresh();
    const picture = await makePicture();
    const first = await upload(picture, key);
    const again = await app.call("POST", "/api/files", {
      token: user.token,
      body: makeForm("a.png", picture),
      headers: { "Idempotency-Key": key },
    });
    const other = await upload(await makePicture(), key);
    expect([first.status, again.status, other.status]).toEqual([201, 201, 422]);
    expect(isReplayed(again)).toBe(true);
    expect(again.text).toBe(first.text);
  });

  test("ten equal uploads at once make one file", async () => {
    const key = fresh();
    const picture = await makePicture();
    const files = await count("files");
    const answers = await Promise.all(Array.from({ length: 10 }, () => upload(picture, key)));
    expect(new Set(answers.map((answer) => answer.text)).size).toBe(1);
    expect(await count("files")).toBe(files + 1);
  });
});

test("a process that dies between the effect and its answer leaves neither, and the key can be used", async () => {
  const key = fresh();
  const body = { name: `torn ${key}` };
  // The transaction is held at its insert and its connection cut, as by a crash.
  const release = await holdTags();
  const torn = post("/api/tags", body, key);
  await cutOff(await waiting('insert into "tags"'));
  expect((await torn).status).toBe(503);
  await release();
  const [left] = await sql`select from tags where name = ${body.name}`;
  expect(left).toBeUndefined();
  const again = await post("/api/tags", body, key);
  expect(again.status).toBe(201);
  expect(isReplayed(again)).toBe(false);
});

test.each([
  { where: "in the same process", call: app.call },
  { where: "in another process", call: second },
])(
  "while the first is under way $where, the second waits, and is told to come back when that takes long",
  async ({ call }) => {
    const key = fresh();
    const body = { name: `slow ${key}` };
    const options = { token: user.token, body, headers: { "Idempotency-Key": key } };
    const release = await holdTags();
    const first = app.call("POST", "/api/tags", options);
    await waiting('insert into "tags"');
    const usual = patience.ms;
    patience.ms = 50;
    const impatient = await call("POST", "/api/tags", options);
    patience.ms = usual;
    expect(impatient.status).toBe(409);
    expect(impatient.body.code).toBe("in-progress");
    expect(Number(impatient.headers.get("retry-after"))).toBeGreaterThan(0);
    const patient = call("POST", "/api/tags", options);
    if (call === second) await waiting("insert into idempotency_keys");
    await release();
    expect((await first).status).toBe(201);
    expect((await patient).text).toBe((await first).text);
  },
);

/** Makes every insert of a tag wait until the function returned is called. */
async function holdTags(): Promise<() => Promise<void>> {
  const holder = await sql.reserve();
  await holder`begin`;
  await holder`lock table tags in share mode`;
  return async () => {
    await holder`rollback`;
    holder.release();
  };
}

/** The backend that waits for a lock in a statement that begins with these words, as soon as there is one. */
async function waiting(words: string): Promise<number> {
  for (;;) {
    const [found] = await sql<{ pid: number }[]>`
      select pid from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock' and btrim(query, e' \\n') like ${`${words}%`}
    `;
    if (found) return found.pid;
  }
}

async function cutOff(pid: number): Promise<void> {
  await sql`select pg_terminate_backend(${pid})`;
}

test("what is stored names neither key, caller nor body", async () => {
  const key = "a-recognisable-key";
  await post("/api/datasets", { images: [], info: "a recognisable body" }, key);
  const rows = await sql`select scope, fingerprint, headers from idempotency_keys`;
  const text = JSON.stringify(rows.map((row) => Object.values(row).map(String)));
  expect(text).not.toContain("recognisable");
});

/** What the night finds in the store, and what `storage check` says of it. */
import { expect, test } from "bun:test";
import { utimesSync } from "node:fs";
import { join } from "node:path";
import { createSweepFiles } from "../../jobs/sweep-files.ts";
import { audit, type Finding } from "../../src/storage/audit.ts";
import { startApp } from "../helpers/app.ts";

const app = await startApp();
const { sql, storage } = app;
const owner = await app.signUp();
const bytes = new TextEncoder().encode("left behind");
const logged: unknown[] = [];
const log = { info: () => {}, error: (finding: unknown) => logged.push(finding) };
const sweep = createSweepFiles({ sql, storage, log: log as never });

async function findings(): Promise<Pick<Finding, "kind" | "key">[]> {
  const found = [];
  for await (const { kind, key } of audit(sql, storage)) found.push({ kind, key });
  return found;
}

const age = (key: string, days: number) => {
  const then = Date.now() / 1000 - days * 86_400;
  utimesSync(join(app.directory, "files", key), then, then);
};
const put = (key: string) => storage.put(key, bytes, { contentType: "text/plain" });
const isThere = async (key: string) => (await storage.get(key)) !== null;

test("a store and a table that agree have nothing to tell, however many files there are", async () => {
  await Promise.all(Array.from({ length: 12 }, () => app.upload(owner.token)));
  await app.uploadModel(owner.token);
  expect(await findings()).toEqual([]);
});

test("orphans are found both ways, first and last in the order of keys too", async () => {
  const [lost, cut, bare] = await Promise.all([1, 2, 3].map(() => app.upload(owner.token)));
  await storage.delete(lost.key);
  await storage.put(cut.key, bytes, { contentType: "image/png" });
  await storage.delete(`${bare.key}.256.webp`);
  const [first, middle, last, nobody] = ["-", "a", "z", "n"].map((letter) => letter.repeat(24));
  const young = `pending/${nobody}.upload/0-1`;
  const strays = [`${first}.png`, `${middle}.png`, `${last}.png`, `${last}.png.256.webp`, young];
  for (const key of strays) await put(key);
  await put("somebody-elses.png"); // a bucket may be shared
  const expected = [
    { kind: "missing", key: lost.key },
    { kind: "wrong-size", key: cut.key },
    { kind: "no-thumbnail", key: bare.key },
    ...strays.map((key) => ({ kind: "stray", key })),
  ];
  const order = (list: { key: string }[]) => list.toSorted((a, b) => (a.key < b.key ? -1 : 1));
  expect(order(await findings())).toEqual(order(expected) as never);

  const check = Bun.spawn([process.execPath, join(import.meta.dirname, "../../src/storage-check.ts"), "check"], {
    env: { PATH: process.env.PATH, DATABASE_URL: app.databaseUrl, DATA_DIR: app.directory, SECRET_KEY: app.secretKey },
    stdout: "pipe",
  });
  age(`${middle}.png`, 1);
  const told = await new Response(check.stdout).text();
  expect(await check.exited).toBe(1);
  expect(told).toContain(`missing       ${lost.key}`);
  expect(told).toContain("2 damaged or lost");

  for (const key of [...strays.slice(0, 4), "somebody-elses.png"]) age(key, 2);
  await sweep();
  for (const key of strays.slice(0, 4)) expect([key, await isThere(key)]).toEqual([key, false]);
  expect(await isThere(young)).toBe(true); // perhaps on its way
  expect(await isThere("somebody-elses.png")).toBe(true);
  expect(logged).toHaveLength(3);
  await app.call("DELETE", `/api/files/${lost.key}`, { token: owner.token });
});

test("an upload that nothing refers to goes after seven days; one that is used, or was sent again, stays", async () => {
  const [used, unused, young, again] = await Promise.all([1, 2, 3, 4].map(() => app.upload(owner.token)));
  await app.make("datasets", owner.token, { images: [used.url] });
  await sql`update files set created_at = now() - interval '8 days' where key = any (${[used.key, unused.key, again.key]})`;
  await sql`update files set uploaded_again_at = now() - interval '6 days' where key = ${again.key}`;
  await sweep();
  const kept = await Promise.all([used, unused, young, again].map(({ key }) => isThere(key)));
  expect(kept).toEqual([true, false, true, true]);
});

test("uploads that were never completed go, once their time is over", async () => {
  const begin = () =>
    app.call("POST", "/api/uploads", {
      token: owner.token,
      headers: { "Tus-Resumable": "1.0.0", "Upload-Length": "20" },
    });
  const [late, open] = [(await begin()).body, (await begin()).body];
  for (const { key } of [late, open]) await put(`pending/${key}/0-x`);
  for (const { key } of [late, open]) age(`pending/${key}/0-x`, 3);
  await sql`update uploads set expires_at = now() where key = ${late.key}`;
  await sweep();
  expect(await Promise.all([late, open].map(({ key }) => isThere(`pending/${key}/0-x`)))).toEqual([false, true]);
});

/** What writers announce, and what it costs: a bell without words, at most one for a transaction, and notes of keys. */
import { expect, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect as connectTcp, createServer, type Socket } from "node:net";
import { connect } from "../../src/db/client.ts";
import { type Changes, type ChangesDeps, followChanges } from "../../src/relay/changes.ts";
import { startApp } from "../helpers/app.ts";
import { addWorker } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const app = await startApp();
const { sql } = app;
const [tag] = await sql<{ id: number }[]>`insert into tags (name) values ('first') returning id`;
const id = String(tag?.id);

async function follow(options: Partial<ChangesDeps> = {}) {
  const seen: Changes[] = [];
  let gaps = 0;
  const stop = await followChanges({
    databaseUrl: app.databaseUrl,
    sql,
    log: app.log,
    onChanges: (changes) => seen.push(changes),
    onGap: () => {
      gaps += 1;
    },
    ...options,
  });
  app.onClose(stop);
  return { seen, gaps: () => gaps, ids: (name: string) => new Set(seen.flatMap((one) => [...(one.get(name) ?? [])])) };
}

test("one bell for a transaction however much it does, without a payload; the notes hold keys alone", async () => {
  const payloads: string[] = [];
  const { unlisten } = await sql.listen("atelier", (payload) => payloads.push(payload));
  await sql.begin(async (tx) => {
    for (let i = 0; i < 5; i += 1) await tx`update tags set name = ${`name ${i}`} where id = ${id}`;
    await tx`insert into tags (name) values ('second')`;
  });
  await Bun.sleep(20); // so soon after a ring nobody rings again
  await sql.begin((tx) => tx`update tags set name = 'last' where id = ${id}`);
  await eventually(
    async () => payloads.length,
    (count) => count >= 2,
  );
  expect(payloads).toEqual(["", ""]);
  const notes = await sql<
    { name: string; ids: string[] }[]
  >`select name, ids from announcements where ${id} = any (ids)`;
  expect(notes).toHaveLength(7);
  expect(notes.at(-1)).toEqual({ name: "tags", ids: [id] });
  await unlisten();
});

test("who commits shortly after a ring does not ring, and is heard of all the same", async () => {
  let rings = 0;
  const { unlisten } = await sql.listen("atelier", () => {
    rings += 1;
  });
  const names = Array.from({ length: 40 }, (_, i) => `quick ${i}`);
  const made = await sql<{ id: number }[]>`insert into tags (name) select unnest(${names}::text[]) returning id`;
  const { ids } = await follow({ pulseMs: 60_000 });
  for (const { id } of made) await sql`update tags set name = name || '!' where id = ${id}`;
  await eventually(
    async () => ids("tags"),
    (found) => made.every(({ id }) => found.has(String(id))),
  );
  expect(rings).toBeLessThan(made.length);
  await unlisten();
});

test("a ring that is said to be of the future hushes nobody", async () => {
  const { ids } = await follow({ pulseMs: 60_000 });
  await sql`select setval('bell_rung_at', ${Date.now() + 3_600_000})`;
  await sql`update tags set name = 'clock set back' where id = ${id}`;
  await eventually(
    async () => ids("tags"),
    (found) => found.has(id),
  );
});

test("a transaction that began early and commits late is not passed over", async () => {
  const { ids } = await follow();
  const [early, late] = await sql<{ id: number }[]>`insert into tags (name) values ('early'), ('late') returning id`;
  await sql.begin(async (tx) => {
    await tx`update tags set name = 'early bird' where id = ${early?.id ?? 0}`;
    await sql`update tags set name = 'late bird' where id = ${late?.id ?? 0}`;
    await eventually(
      async () => ids("tags"),
      (found) => found.has(String(late?.id)),
    );
  });
  await eventually(
    async () => ids("tags"),
    (found) => found.has(String(early?.id)),
  );
});

test("a statement over more than 200 rows names none of them", async () => {
  const { seen } = await follow();
  await sql`insert into tags (name) select 'many ' || n from generate_series(1, 201) n`;
  await eventually(
    async () => seen,
    (all) => all.some((changes) => changes.get("tags") === null),
  );
});

test("a listening connection that was killed is made anew, and the gap is told", async () => {
  const { gaps, ids } = await follow();
  await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name = 'atelier relay'
  `;
  await eventually(
    async () => gaps(),
    (count) => count > 0,
  );
  await sql`update tags set name = 'after' where id = ${id}`;
  await eventually(
    async () => ids("tags"),
    (found) => found.has(id),
  );
});

test("a listening connection that has gone silent, without a word, is noticed and replaced", async () => {
  const { hostname, port } = new URL(app.databaseUrl);
  const through: Socket[] = [];
  const proxy = createServer((near) => {
    const far = connectTcp(Number(port), hostname);
    near.pipe(far).pipe(near);
    for (const end of [near, far]) end.on("error", () => {});
    through.push(near, far);
  });
  await once(proxy.listen(0, "127.0.0.1"), "listening");
  app.onClose(async () => proxy.close());
  const url = new URL(app.databaseUrl);
  url.host = `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const { gaps, ids } = await follow({ databaseUrl: url.href, pulseMs: 20, patienceMs: 100 });
  const frozen = through.splice(0);
  for (const end of frozen) end.unpipe().pause();
  await eventually(
    async () => gaps() > 0 && through.length > 0,
    (isSo) => isSo,
  );
  // Again and again: what is found together with a gap is told as the gap.
  await eventually(
    async () => {
      await sql`update tags set name = 'heard again' where id = ${id}`;
      return ids("tags");
    },
    (found) => found.has(id),
  );
  for (const end of [...frozen, ...through]) end.destroy();
});

test("what all have read is forgotten, by a worker alone too", async () => {
  const kept = async () => {
    const notes = await sql<{ ids: string[] }[]>`select ids from announcements where name = 'tags'`;
    return notes.length;
  };
  await sql`truncate announcements, announcement_marks`;
  await sql`update tags set name = 'old' where id = ${id}`;
  await sql`insert into announcement_marks (at) values (clock_timestamp() - interval '61 s')`;
  await sql`update tags set name = 'new' where id = ${id}`;
  // Not once, since another process may just be at it.
  const forget = () => sql`select forget_announcements()`;
  await eventually(
    () => forget().then(kept),
    (count) => count === 1,
  );
  await forget();
  expect(await kept()).toBe(1);
  await sql`update announcement_marks set at = at - interval '61 s'`;
  await addWorker(app);
  expect(await kept()).toBe(0);
});

test("a listener may be asked whether it lives: the connection is one, and listens", async () => {
  const other = connect(app.databaseUrl, { max: 1 });
  await follow();
  await eventually(
    () => other`
      select from pg_stat_activity
      where datname = current_database() and application_name = 'atelier relay' and query = 'listen atelier'
    `,
    (found) => found.length > 0,
  );
  await other.end();
});

/** Files and what refers to them: what is used stays, whatever happens at the same time. */
import { expect, test } from "bun:test";
import { readPicture } from "../../src/storage/pictures.ts";
import { deleteUnused, keepPicture } from "../../src/storage/records.ts";
import { startApp } from "../helpers/app.ts";
import { makePicture } from "../helpers/files.ts";
import { eventually } from "../helpers/socket.ts";

const app = await startApp();
const { sql, storage } = app;
const owner = await app.signUp();
const objects = (key: string) => Promise.all([key, `${key}.512.webp`, `${key}.256.webp`].map((k) => storage.get(k)));

/** Until somebody waits for a row of somebody else's. */
const untilLocked = () =>
  eventually(
    () => sql`select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    (rows) => rows.length > 0,
  );

test("a file that somebody is just taking up is not deleted", async () => {
  const { key } = await app.upload(owner.token);
  let deletion: Promise<unknown> | undefined;
  await sql.begin(async (tx) => {
    await tx`select from files where key = ${key} for key share`; // as every check of a reference does
    await tx`insert into datasets (name, images, user_id) values ('d', array[file_path(${key})], ${owner.id})`;
    deletion = deleteUnused(sql, storage, [key]);
    await untilLocked();
  });
  await deletion;
  expect(await sql`select from files where key = ${key}`).toHaveLength(1);
  expect(await objects(key)).not.toContain(null);
});

test("a task that is tried again does not count on an input that is just being deleted", async () => {
  const { key } = await app.upload(owner.token);
  const image = await app.make("images", owner.token, { prompt: "a lake" });
  await sql`
    update tasks
    set status = 'error', error = '{}', finished_at = now(), waiting_at = now(), input_keys = array[${key}]
    where id = ${image.task_id}
  `;
  let retried: ReturnType<typeof app.call> | undefined;
  await sql.begin(async (tx) => {
    await tx`select from files where key = ${key} for update`; // as a deletion begins
    const body = { status: "waiting" };
    retried = app.call("PATCH", `/api/tasks/${image.task_id}`, { token: owner.token, body });
    await Promise.race([retried, untilLocked()]);
    await tx`delete from files where key = ${key}`;
  });
  expect((await retried)?.body.status).toBe("initial"); // to be prepared anew
});

test("what nothing uses goes with its thumbnails; what is used stays", async () => {
  const [used, unused] = await Promise.all([app.upload(owner.token), app.upload(owner.token)]);
  await app.make("datasets", owner.token, { images: [used.url] });
  await deleteUnused(sql, storage, [used.key, unused.key]);
  expect(await objects(used.key)).not.toContain(null);
  expect(await objects(unused.key)).toEqual([null, null, null]);
  expect(await sql`select from files where key = ${unused.key}`).toHaveLength(0);
});

test("what was uploaded again lately outlives the deletion of its old use, unless its owner says so", async () => {
  const picture = await makePicture();
  const { key } = await app.upload(owner.token, picture);
  expect((await app.upload(owner.token, picture)).key).toBe(key);
  await deleteUnused(sql, storage, [key]);
  expect(await objects(key)).not.toContain(null);
  expect((await app.call("DELETE", `/api/files/${key}`, { token: owner.token })).status).toBe(204);
  expect(await objects(key)).toEqual([null, null, null]);
});

test("while a backup runs, rows go and their objects wait for it", async () => {
  const { key } = await app.upload(owner.token);
  await sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(hashtextextended('atelier deletes files', 0))`;
    await deleteUnused(sql, storage, [key]);
    expect(await sql`select from files where key = ${key}`).toHaveLength(0);
    expect(await objects(key)).not.toContain(null);
  });
  const later = await sql<{ payload: { keys: string[] } }[]>`
    select j.payload
    from graphile_worker._private_jobs j
    join graphile_worker._private_tasks t on t.id = j.task_id
    where t.identifier = 'delete-files' and j.run_at > now()
  `;
  expect(later.map(({ payload }) => payload.keys)).toEqual([[key]]);
  await deleteUnused(sql, storage, [key]);
  expect(await objects(key)).toEqual([null, null, null]);
});

test("a file whose row may be there keeps its bytes, although the connection broke at the commit", async () => {
  const picture = await readPicture(await makePicture());
  let key = "";
  const kept = keepPicture(sql, storage, owner.id, picture, {
    inside: async (write) => {
      key = await write(sql);
      throw Object.assign(new Error("write CONNECTION_CLOSED"), { code: "CONNECTION_CLOSED" });
    },
  });
  expect(kept).rejects.toThrow("CONNECTION_CLOSED");
  await kept.catch(() => {});
  expect(await sql`select from files where key = ${key}`).toHaveLength(1);
  expect(await objects(key)).not.toContain(null);
});

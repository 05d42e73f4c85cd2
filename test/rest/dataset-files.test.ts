/** A folder or a ZIP into a data set. */
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { ZipFile } from "yazl";
import { type Json, startApp } from "../helpers/app.ts";
import { makePicture } from "../helpers/files.ts";

const app = await startApp({ userQuotaBytes: 2_000_000 });
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

type Files = [name: string, bytes: Uint8Array | string][];
const newDataset = (who = owner, fields: Json = {}) => app.make("datasets", who.token, { images: [], ...fields });
const get = async (id: number, token = owner.token) => (await app.call("GET", `/api/datasets/${id}`, { token })).body;
const bytesOf = (content: Uint8Array | string) => (typeof content === "string" ? Buffer.from(content) : content);

function folder(files: Files): FormData {
  const form = new FormData();
  for (const [name, content] of files) form.append("file", new File([new Uint8Array(bytesOf(content))], name));
  return form;
}

async function zip(files: Files): Promise<Uint8Array> {
  const file = new ZipFile();
  for (const [name, content] of files) file.addBuffer(Buffer.from(bytesOf(content)), name);
  file.end();
  return new Uint8Array(await new Response(file.outputStream as unknown as ReadableStream).arrayBuffer());
}

const send = (id: number, body: FormData | Uint8Array, token: string | undefined = owner.token, headers: Json = {}) => {
  const type = body instanceof FormData ? {} : { "Content-Type": "application/zip" };
  return app.call("POST", `/api/datasets/${id}/files`, { token, body, headers: { ...type, ...headers } });
};

const pictures = await Promise.all(Array.from({ length: 30 }, () => makePicture({ width: 40, height: 40 })));
const many: Files = pictures.map((bytes, n) => [`cuckoos/${String(n).padStart(2, "0")}.png`, bytes]);

test.each([
  { what: "a folder", pack: async (files: Files) => folder(files) },
  { what: "a ZIP as the body", pack: zip },
  { what: "a ZIP in a form", pack: async (files: Files) => folder([["all.zip", await zip(files)]]) },
])("$what: pictures in their order, captions beside them, a report on each", async ({ pack }) => {
  const { id } = await newDataset();
  const files: Files = [
    ...many,
    ["cuckoos/00.txt", "\ufeffa cuckoo on a branch\n"],
    ["cuckoos/布穀鳥.txt", "nobody's"],
    ["cuckoos/notes.pdf", "%PDF-1.7 and so on, no picture at all"],
    ["cuckoos/broken.png", (pictures[0] as Buffer).subarray(0, 60)],
    ["cuckoos/.DS_Store", "junk"],
    ["__MACOSX/cuckoos/._00.png", "junk"],
  ];
  const { status, body } = await send(id, await pack(files));
  expect([status, body.added]).toEqual([200, 30]);
  const told = new Map<string, string>(body.report.map((entry: Json) => [entry.name, entry.status]));
  expect([...told].filter(([, verdict]) => verdict !== "ok")).toEqual([
    ["cuckoos/布穀鳥.txt", "no picture"],
    ["cuckoos/notes.pdf", "not an image"],
    ["cuckoos/broken.png", "not an image"],
  ]);
  expect(told.size).toBe(34);
  const dataset = await get(id);
  const stored = await app.sql<{ path: string; hash: string }[]>`select file_path(key) as path, hash from files`;
  const hashes = new Map(stored.map(({ path, hash }) => [path, hash]));
  const expected = await Promise.all(pictures.map(async (picture) => (await app.upload(owner.token, picture)).hash));
  expect(dataset.images.map((url: string) => hashes.get(new URL(url).pathname))).toEqual(expected);
  expect(dataset.captions).toEqual({ [dataset.images[0]]: "a cuckoo on a branch" });
  expect((await send(id, await pack(files))).body.added).toBe(0);
  expect(readdirSync(`${app.directory}/tmp`)).toEqual([]);
});

test("is the owner's to add to, and admins'; what comes in belongs to the owner", async () => {
  const { id } = await newDataset(owner);
  const one = (n: number) => folder([["a.png", pictures[n] as Buffer]]);
  expect((await send(id, one(1), stranger.token)).status).toBe(404);
  const guest = await app.call("POST", `/api/datasets/${id}/files`, { body: one(1) });
  expect(guest.status).toBe(401);
  await app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { public: true } });
  expect((await send(id, one(1), stranger.token)).status).toBe(403);
  expect((await send(id, one(2), admin.token)).body.added).toBe(1);
  expect((await get(id)).images.every((url: string | null) => url !== null)).toBe(true);
  expect((await app.call("GET", "/api/files", { token: admin.token })).body.total).toBe(0);
});

test("the same request under the same key acts once", async () => {
  const { id } = await newDataset();
  const key = { "Idempotency-Key": "folder-1" };
  const first = await send(id, folder(many.slice(0, 3)), owner.token, key);
  const again = await send(id, folder(many.slice(0, 3)), owner.token, key);
  expect([again.body, again.headers.get("idempotency-replayed")]).toEqual([first.body, "true"]);
  expect((await send(id, folder(many.slice(0, 4)), owner.token, key)).body.code).toBe("idempotency-key-reused");
});

test("the quota ends it picture by picture", async () => {
  const user = await app.signUp();
  const { id } = await newDataset(user);
  await app.upload(user.token);
  await app.sql`update files set size = 2000000 where user_id = ${user.id}`;
  const { body } = await send(id, folder(many.slice(0, 2)), user.token);
  expect(body.report.map(({ status }: Json) => status)).toEqual(["over quota", "over quota"]);
  expect((await get(id, user.token)).image_count).toBe(0);
});

function renamed(bytes: Uint8Array, from: string, to: string): Uint8Array {
  return Buffer.from(Buffer.from(bytes).toString("latin1").replaceAll(from, to), "latin1");
}

const refusals: [string, () => FormData | Uint8Array | Promise<Uint8Array>, number][] = [
  ["an empty form", () => new FormData(), 422],
  [
    "another part",
    () => {
      const form = new FormData();
      form.set("picture", new File(["x"], "a.png"));
      return form;
    },
    422,
  ],
  ["a folder of nothing but junk", () => folder([[".DS_Store", "x"]]), 422],
  ["a ZIP cut short", async () => (await zip(many.slice(0, 3))).subarray(0, 300), 422],
  ["no ZIP at all", () => Buffer.from("this is no archive"), 422],
  ["a name that climbs out", async () => renamed(await zip([["aaaaaaa.png", "x"]]), "aaaaaaa.png", "../../a.png"), 422],
];
test.each(refusals)("%s is refused, and nothing is left", async (_what, make, status) => {
  const { id } = await newDataset();
  expect((await send(id, await make())).status).toBe(status);
  expect((await get(id)).image_count).toBe(0);
  expect(readdirSync(`${app.directory}/tmp`)).toEqual([]);
});

test("another type of body is 415", async () => {
  const { id } = await newDataset();
  const headers = { "Content-Type": "application/json" };
  expect((await send(id, Buffer.from("{}"), owner.token, headers)).status).toBe(415);
});

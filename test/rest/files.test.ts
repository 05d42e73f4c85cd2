/** Uploads in, bytes out to those who may see them. */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { type CallOptions, type Json, startApp, toRequest } from "../helpers/app.ts";
import { isOnDeno } from "../helpers/deno.ts";
import { makeForm, makeModelFile, makePicture } from "../helpers/files.ts";

const app = await startApp();
const owner = await app.signUp("owner");
const stranger = await app.signUp("stranger");
const admin = await app.admin();

const somePicture = await makePicture();
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

async function download(url: string, { token, headers }: CallOptions = {}) {
  const response = await app.fetch(toRequest("GET", url, { token, headers }));
  return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) };
}

const bare = (url: string) => url.split("?")[0] as string;
const upload = (body: unknown, headers: Record<string, string> = {}, token: string | undefined = owner.token) =>
  app.call("POST", "/api/files", { token, body, headers });

describe("upload", () => {
  test.each(["png", "jpeg", "webp", "avif"] as const)("a %s by its bytes, raw or as a form", async (format) => {
    for (const isForm of [false, true]) {
      const picture = await makePicture({ format, width: 40, height: 30 });
      const answer = isForm
        ? await upload(makeForm("anything.txt", picture))
        : await upload(picture, { "Content-Type": "text/plain" });
      expect([answer.status, answer.text.slice(0, 0)]).toEqual([201, ""]);
      expect(answer.body).toMatchObject({ content_type: `image/${format}`, width: 40, height: 30 });
      const served = await download(answer.body.url);
      expect([served.status, served.headers.get("content-type")]).toEqual([200, `image/${format}`]);
      expect(answer.body).toMatchObject({ hash: sha256(served.bytes), size: served.bytes.length });
      expect((await sharp(served.bytes).metadata()).width).toBe(40);
      expect(served.headers.get("x-content-type-options")).toBe("nosniff");
    }
  });

  test("a model file", async () => {
    const bytes = makeModelFile();
    const { status, body } = await upload(makeForm("style.safetensors", bytes));
    expect(status).toBe(201);
    expect(body).toMatchObject({ hash: sha256(bytes), size: bytes.length, width: null, height: null });
    expect(sha256((await download(body.url)).bytes)).toBe(sha256(bytes));
  });

  const refused: { what: string; body: FormData | Uint8Array; status: number }[] = [
    { what: "a text called .png", body: makeForm("a.png", Buffer.from("hello world, no picture")), status: 415 },
    { what: "HTML", body: Buffer.from("<html><script>alert(1)</script>"), status: 415 },
    { what: "SVG", body: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), status: 415 },
    { what: "a GIF", body: Buffer.from("GIF89a\x01\x00\x01\x00\x00\x00\x00"), status: 415 },
    { what: "half a PNG", body: somePicture.subarray(0, 60), status: 415 },
    { what: "a pickle", body: Buffer.from([0x80, 0x04, 0x95, 0, 0, 0, 0, 0, 0, 0]), status: 415 },
    { what: "a cut model file", body: makeModelFile().subarray(0, 40), status: 415 },
    { what: "nothing", body: new Uint8Array(0), status: 422 },
    { what: "a form without the field", body: makeForm("a.png", somePicture, "picture"), status: 422 },
    { what: "a picture of too many pixels", body: hugePng(20_000, 20_000), status: 413 },
  ];
  test.each(refused)("$what: $status, and nothing is kept", async ({ body, status }) => {
    const someone = await app.signUp();
    const answer = await upload(body, body instanceof FormData ? {} : { "Content-Type": "image/png" }, someone.token);
    expect([answer.status, answer.headers.get("content-type")]).toEqual([status, "application/problem+json"]);
    const { body: list } = await app.call("GET", "/api/files", { token: someone.token });
    expect(list).toMatchObject({ total: 0, used_bytes: 0 });
  });

  // No client of HTTP sends a length that is not the body's.
  test.skipIf(isOnDeno)("too large by Content-Length is refused before the bytes come", async () => {
    const picture = await makePicture();
    for (const [bytes, size] of [
      [picture, 50_000_001],
      [makeModelFile(), 8_000_000_001],
    ] as const) {
      const answer = await upload(bytes, { "Content-Length": String(size), "Content-Type": "image/png" });
      expect([answer.status, answer.body.code]).toEqual([413, "too-large"]);
    }
  });

  test("guests may not", async () => {
    const answer = await app.call("POST", "/api/files", { body: makeForm("a.png", await makePicture()) });
    expect(answer.status).toBe(401);
  });

  test("the same bytes are kept once an owner, and twice for two", async () => {
    const picture = await makePicture();
    const [one, again] = [await app.upload(owner.token, picture), await app.upload(owner.token, picture)];
    expect(bare(again.url)).toBe(bare(one.url));
    expect(bare((await app.upload(stranger.token, picture)).url)).not.toBe(bare(one.url));
  });

  test("where a picture was taken is not kept", async () => {
    const tagged = await sharp(await makePicture({ format: "jpeg" }))
      .withExif({ IFD3: { GPSLatitude: "51/1 30/1 0/1" } })
      .jpeg()
      .toBuffer();
    expect((await sharp(tagged).metadata()).exif).toBeDefined();
    const { url } = await app.upload(owner.token, tagged);
    expect((await sharp((await download(url)).bytes).metadata()).exif).toBeUndefined();
  });

  /** A PNG whose header promises more pixels than its few bytes hold. */
  function hugePng(width: number, height: number): Buffer {
    const chunk = (type: string, data: Buffer) => {
      const body = Buffer.concat([Buffer.from(type), data]);
      const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
      length.writeUInt32BE(data.length);
      sum.writeUInt32BE(Bun.hash.crc32(body));
      return Buffer.concat([length, body, sum]);
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
    const data = chunk("IDAT", deflateSync(Buffer.alloc(100)));
    return Buffer.concat([signature, chunk("IHDR", header), data, chunk("IEND", Buffer.alloc(0))]);
  }
});

describe("who may load a private file", () => {
  test("the owner and admins by token, anyone by a signature that holds, nobody else", async () => {
    const { url } = await app.upload(owner.token);
    const status = async (address: string, token?: string) => (await download(address, { token })).status;
    expect(await status(bare(url), owner.token)).toBe(200);
    expect(await status(bare(url), admin.token)).toBe(200);
    expect(await status(bare(url), stranger.token)).toBe(404);
    expect(await status(bare(url))).toBe(404);
    expect(await status(url)).toBe(200);
    expect(await status(url, stranger.token)).toBe(200);
    expect(await status(url, "wrong")).toBe(401);

    const signed = new URL(url);
    const expires = Number(signed.searchParams.get("expires"));
    expect(expires - Date.now() / 1000).toBeWithin(595, 661);
    const key = signed.pathname.split("/").at(-1) as string;
    const withQuery = (query: Record<string, string>) => `${bare(url)}?${new URLSearchParams(query)}`;
    const signature = signed.searchParams.get("signature") as string;
    const forged = signature.startsWith("A") ? `B${signature.slice(1)}` : `A${signature.slice(1)}`;
    expect(await status(withQuery({ expires: String(expires), signature: forged }))).toBe(404);
    expect(await status(withQuery({ expires: String(expires + 60), signature }))).toBe(404);
    expect(await status(withQuery({ expires: String(expires) }))).toBe(404);
    const past = Math.floor(Date.now() / 1000) - 1;
    expect(await status(withQuery({ expires: String(past), signature: app.secrets.sign(`file ${key} ${past}`) }))).toBe(
      404,
    );
    const other = await app.upload(owner.token);
    expect(await status(`${bare(other.url)}?${signed.searchParams}`)).toBe(404);
  });

  test("thumbnails go the way of their picture, by its signature too", async () => {
    const file = await app.upload(owner.token, await makePicture({ width: 900, height: 600 }));
    for (const [shown, width] of [
      [file.thumbnail, 512],
      [file.thumbnail_small, 256],
    ] as const) {
      const served = await download(shown);
      expect([served.status, served.headers.get("content-type")]).toEqual([200, "image/webp"]);
      expect((await sharp(served.bytes).metadata()).width).toBe(width);
      const again = await download(shown, { headers: { "If-None-Match": served.headers.get("etag") as string } });
      expect(again.status).toBe(304);
      expect((await download(bare(shown), { token: stranger.token })).status).toBe(404);
      expect((await download(`${bare(file.url)}.${width}.webp?${file.url.split("?")[1]}`)).status).toBe(200);
      expect((await download(`${bare(file.url)}.${width + 1}.webp?${file.url.split("?")[1]}`)).status).toBe(404);
    }
    const model = await app.uploadModel(owner.token);
    expect(model).toMatchObject({ thumbnail: null, thumbhash: null });
    expect((await download(`${bare(model.url)}.256.webp`, { token: owner.token })).status).toBe(404);
  });

  test("a hidden file and a missing one answer alike", async () => {
    const { url } = await app.upload(owner.token);
    const key = bare(url).split("/").at(-1) as string;
    const ask = async (name: string) => (await app.call("GET", `/api/files/${name}`)).text.replaceAll(name, "KEY");
    expect(await ask(key)).toBe(await ask("no-such-file.png"));
  });

  test("a public object of the owner opens it, another's does not; private again closes it", async () => {
    const { url } = await app.upload(owner.token);
    const anonymous = async () => (await download(bare(url))).status;
    const dataset = await app.make("datasets", owner.token, { images: [url] });
    expect(await anonymous()).toBe(404);
    const show = (isPublic: boolean) =>
      app.call("PATCH", `/api/datasets/${dataset.id}`, { token: owner.token, body: { public: isPublic } });
    const shown = await show(true);
    expect(await anonymous()).toBe(200);
    expect(shown.body.images).toEqual([bare(url)]);
    // A stranger who may see it now gains no hold on it.
    const theirs = await app.make("datasets", stranger.token, { images: [url], public: true });
    await show(false);
    expect(await anonymous()).toBe(404);
    const kept = await app.call("GET", `/api/datasets/${theirs.id}`, { token: stranger.token });
    expect(kept.body.images).toEqual([null]);
  });
});

describe("loading", () => {
  test("an ETag gives 304", async () => {
    const { url, hash } = await app.upload(owner.token);
    const first = await download(url);
    const etag = first.headers.get("etag") as string;
    expect(etag).toContain(hash);
    for (const value of [etag, `W/${etag}`, "*", `"other", ${etag}`]) {
      const again = await download(url, { headers: { "If-None-Match": value } });
      expect([again.status, again.bytes.length, again.headers.get("etag")]).toEqual([304, 0, etag]);
    }
    expect((await download(url, { headers: { "If-None-Match": '"other"' } })).status).toBe(200);
  });

  test("ranges", async () => {
    const { url, size } = await app.upload(owner.token);
    const { bytes, headers } = await download(url);
    expect([headers.get("accept-ranges"), headers.get("content-length")]).toEqual(["bytes", String(size)]);
    const cases: [string, number, number][] = [
      ["bytes=0-0", 0, 1],
      ["bytes=5-14", 5, 15],
      ["bytes=10-", 10, size],
      ["bytes=-7", size - 7, size],
      [`bytes=0-${size * 2}`, 0, size],
      [`bytes=-${size * 2}`, 0, size],
    ];
    for (const [range, start, end] of cases) {
      const part = await download(url, { headers: { Range: range } });
      expect([range, part.status, part.headers.get("content-range")]).toEqual([
        range,
        206,
        `bytes ${start}-${end - 1}/${size}`,
      ]);
      expect(part.bytes).toEqual(bytes.subarray(start, end));
    }
    for (const range of [`bytes=${size}-`, "bytes=-0", `bytes=${size}-${size + 5}`]) {
      const part = await download(url, { headers: { Range: range } });
      expect([range, part.status, part.headers.get("content-range")]).toEqual([range, 416, `bytes */${size}`]);
    }
    for (const range of ["bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=-"]) {
      expect([range, (await download(url, { headers: { Range: range } })).status]).toEqual([range, 200]);
    }
    const stale = await download(url, { headers: { Range: "bytes=0-0", "If-Range": '"other"' } });
    expect(stale.status).toBe(200);
  });

  test("a model's file has its name, for those who may see the model", async () => {
    const model = await app.makeModel(owner.token, { name: "水彩 / style", public: true });
    const file = await download(`${app.config.publicUrl}/api/models/${model.id}/file`);
    expect(file.status).toBe(200);
    expect(sha256(file.bytes)).toBe(model.hash);
    expect(file.headers.get("content-disposition")).toMatch(/^attachment; .*filename\*=UTF-8''%E6%B0%B4/);
    await app.call("PATCH", `/api/models/${model.id}`, { token: owner.token, body: { public: false } });
    const path = `${app.config.publicUrl}/api/models/${model.id}/file`;
    expect((await download(path)).status).toBe(404);
    expect((await download(path, { token: stranger.token })).status).toBe(404);
    expect((await download(path, { token: owner.token })).status).toBe(200);
  });
});

describe("one's own files", () => {
  test("are listed with what they take", async () => {
    const user = await app.signUp();
    const files: Json[] = [await app.upload(user.token), await app.upload(user.token), await app.upload(user.token)];
    const ask = async (query: string) => (await app.call("GET", `/api/files?${query}`, { token: user.token })).body;
    const used = files.reduce((sum, file) => sum + file.size, 0);
    expect(await ask("pageSize=2")).toMatchObject({ page: 1, page_size: 2, total: 3, next: true, used_bytes: used });
    const second = await ask("pageSize=2&page=2");
    expect(second).toMatchObject({ next: false, used_bytes: used });
    expect(second.list.map((file: Json) => file.hash)).toEqual([files[2]?.hash]);
    expect((await app.call("GET", "/api/files")).status).toBe(401);
    for (const query of ["page=0", "page=1e1", "page=", "pageSize=201", "tag=x", "page=1&page=1"]) {
      expect([query, (await app.call("GET", `/api/files?${query}`, { token: user.token })).status]).toEqual([
        query,
        400,
      ]);
    }
  });

  test("are deleted when nothing uses them, bytes included", async () => {
    const { url } = await app.upload(owner.token);
    const key = bare(url).split("/").at(-1) as string;
    const remove = (token?: string) => app.call("DELETE", `/api/files/${key}`, { token });
    const dataset = await app.make("datasets", owner.token, { images: [url] });
    expect((await remove()).status).toBe(401);
    expect((await remove(stranger.token)).status).toBe(404);
    const used = await remove(owner.token);
    expect([used.status, used.body.code]).toEqual([409, "in-use"]);
    await app.call("DELETE", `/api/datasets/${dataset.id}`, { token: owner.token });
    expect((await remove(owner.token)).status).toBe(204);
    expect(await app.storage.get(key)).toBeNull();
    expect((await remove(owner.token)).status).toBe(404);
  });

  test("a stranger who may see one may not delete it", async () => {
    const { url } = await app.upload(owner.token);
    await app.make("datasets", owner.token, { images: [url], public: true });
    const answer = await app.call("DELETE", new URL(url).pathname, { token: stranger.token });
    expect(answer.status).toBe(403);
  });
});

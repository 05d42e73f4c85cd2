/** Uploads that do not come in one request: straight to the object store, and in parts. */
import { afterAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { Upload } from "tus-js-client";
import { type Account, type Json, startApp } from "../helpers/app.ts";
import { makeModelFile, makePicture } from "../helpers/files.ts";
import { failure, startFakeS3 } from "../helpers/s3.ts";
import { eventually, listen } from "../helpers/socket.ts";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe("straight to S3", async () => {
  const fake = startFakeS3();
  afterAll(() => fake.stop());
  const app = await startApp({ s3: fake.options, userQuotaBytes: 1_000_000 });
  const owner = await app.signUp();
  const begin = (body: Json, token = owner.token) => app.call("POST", "/api/files", { token, body });
  const complete = (key: string, token = owner.token, headers = {}) =>
    app.call("POST", `/api/files/${key}/complete`, { token, headers });
  const send = ({ upload }: Json, bytes: Uint8Array) =>
    fetch(upload.url, { method: upload.method, headers: upload.headers, body: new Uint8Array(bytes) });

  test.each([
    { what: "a picture", content_type: "image/png", make: () => makePicture() },
    { what: "a model", content_type: "application/octet-stream", make: async () => makeModelFile() },
  ])("$what is usable once it is complete, not before", async ({ content_type, make }) => {
    const bytes = await make();
    const { status, body } = await begin({ content_type, size: bytes.length });
    expect([status, body.complete]).toEqual([201, `/api/files/${body.key}/complete`]);
    const early = await complete(body.key);
    expect([early.status, early.body.code]).toEqual([409, "upload-incomplete"]);
    expect((await send(body, bytes)).status).toBe(200);
    expect((await app.call("GET", `/api/files/${body.key}`, { token: owner.token })).status).toBe(404);
    const used = await app.call("POST", "/api/datasets", {
      token: owner.token,
      body: { images: [`/api/files/${body.key}`] },
    });
    expect(used.status).toBe(422);

    const done = await complete(body.key);
    expect([done.status, done.headers.get("location")]).toEqual([201, `/api/files/${done.body.key}`]);
    expect(done.body).toMatchObject({ content_type });
    expect(sha256(fake.objects.get(done.body.key)?.bytes ?? new Uint8Array())).toBe(done.body.hash);
    expect([...fake.objects.keys()].filter((key) => key.includes("pending") || key.endsWith("received"))).toEqual([]);
    expect(await complete(body.key)).toMatchObject({ status: 200, body: { key: done.body.key, hash: done.body.hash } });
    const redirect = await app.call("GET", `/api/files/${done.body.key}`, { token: owner.token });
    expect([redirect.status, (await fetch(redirect.headers.get("location") ?? "")).status]).toEqual([302, 200]);
  });

  test("what is sent there later does not reach the file", async () => {
    const bytes = makeModelFile();
    const { body } = await begin({ content_type: "application/octet-stream", size: bytes.length });
    await send(body, bytes);
    const { body: file } = await complete(body.key);
    await send(body, makeModelFile());
    expect((await complete(body.key)).body.hash).toBe(file.hash);
    expect(sha256(fake.objects.get(file.key)?.bytes ?? new Uint8Array())).toBe(sha256(bytes));
  });

  test.each([
    { what: "a picture", content_type: "image/png", make: () => makePicture(), fails: ".512.webp" },
    { what: "a model", content_type: "application/octet-stream", make: async () => makeModelFile(), fails: "GET" },
  ])("$what need not be sent again when the store fails in between", async ({ content_type, make, fails }) => {
    const bytes = await make();
    const { body } = await begin({ content_type, size: bytes.length });
    await send(body, bytes);
    const isHit = ({ url, method }: Request) =>
      url.includes(fails) || (method === fails && url.includes("safetensors"));
    fake.intercept = (request) => (isHit(request) ? failure(500, "InternalError") : null);
    app.log.level = "silent";
    const failed = await complete(body.key).finally(() => {
      fake.intercept = () => null;
      app.log.level = "error";
    });
    expect([failed.status, failed.body.code]).toEqual([503, "storage-unavailable"]);
    expect((await complete(body.key)).status).toBe(201);
  });

  test.each([
    { what: "another type than declared", type: "image/jpeg", make: () => makePicture(), status: 415 },
    { what: "no picture", type: "image/png", make: async () => Buffer.from("hello world, no picture"), status: 415 },
    {
      what: "half a model",
      type: "application/octet-stream",
      make: async () => makeModelFile().subarray(0, 60),
      status: 415,
    },
  ])("$what is refused and leaves nothing", async ({ type, make, status }) => {
    const before = fake.objects.size;
    const bytes = await make();
    const { body } = await begin({ content_type: type, size: bytes.length });
    await send(body, bytes);
    expect((await complete(body.key)).status).toBe(status);
    expect(fake.objects.size).toBe(before);
  });

  test("it is its owner's alone", async () => {
    const stranger = await app.signUp();
    const bytes = await makePicture();
    const { body } = await begin({ content_type: "image/png", size: bytes.length });
    await send(body, bytes);
    expect((await complete(body.key, stranger.token)).status).toBe(404);
    expect((await app.call("POST", `/api/files/${body.key}/complete`)).status).toBe(401);
    expect((await app.call("GET", `/api/uploads/${body.key}`, { token: owner.token })).status).toBe(404);
  });

  test("after its hour it is gone", async () => {
    const { body } = await begin({ content_type: "image/png", size: 100 });
    expect(Date.parse(body.expires_at) - Date.now()).toBeWithin(3_500_000, 3_600_001);
    await app.sql`update uploads set expires_at = now() where key = ${body.key}`;
    expect((await complete(body.key)).status).toBe(404);
  });

  test("the declared sizes count against the quota from the start", async () => {
    const user = await app.signUp();
    const size = 600_000;
    const answers = await Promise.all([1, 2].map(() => begin({ content_type: "image/png", size }, user.token)));
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 413]);
    expect(answers.find(({ status }) => status === 413)?.body.code).toBe("quota-exceeded");
  });

  test.each([
    { body: {}, pointers: ["/content_type", "/size"] },
    { body: { content_type: "image/gif", size: 1 }, pointers: ["/content_type"] },
    { body: { content_type: "image/png", size: 0 }, pointers: ["/size"] },
    { body: { content_type: "image/png", size: 1, name: "x" }, pointers: ["/name"] },
  ])("$body is 422", async ({ body, pointers }) => {
    const answer = await begin(body);
    expect([answer.status, answer.body.errors.map((error: Json) => error.pointer)]).toEqual([422, pointers]);
  });

  test("more than a picture may have is 413", async () => {
    expect((await begin({ content_type: "image/png", size: 50_000_001 })).status).toBe(413);
  });
});

describe("without an object store", async () => {
  const app = await startApp({ userQuotaBytes: 3_000_000 });
  const server = await listen(app);
  const owner = await app.signUp();
  const tus = { "Tus-Resumable": "1.0.0" };
  const model = (size: number) => {
    const header = JSON.stringify({ weight: { dtype: "U8", shape: [size], data_offsets: [0, size] } });
    const bytes = Buffer.concat([Buffer.alloc(8), Buffer.from(header), randomBytes(size)]);
    bytes.writeBigUInt64LE(BigInt(header.length));
    return bytes;
  };
  const begin = (size: number, who: Account = owner) =>
    app.call("POST", "/api/uploads", { token: who.token, headers: { ...tus, "Upload-Length": String(size) } });
  const patch = (path: string, offset: number, bytes: Uint8Array, token = owner.token) =>
    app.call("PATCH", path, {
      token,
      body: bytes,
      headers: { ...tus, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" },
    });
  const ask = (path: string, token = owner.token) => app.call("HEAD", path, { token, headers: tus });
  const objects = async () => {
    const keys = [];
    for await (const { key } of app.storage.list()) keys.push(key);
    return keys;
  };

  test("a direct upload is refused with what to do instead", async () => {
    const answer = await app.call("POST", "/api/files", {
      token: owner.token,
      body: { content_type: "image/png", size: 10 },
    });
    expect([answer.status, answer.body.detail]).toEqual([415, expect.stringContaining("/api/uploads")]);
  });

  test("a tus client sends a model in parts, and goes on where a broken connection left off", async () => {
    const bytes = model(1_000_000);
    const options = {
      endpoint: `http://127.0.0.1:${server.port}/api/uploads`,
      chunkSize: 300_000,
      retryDelays: null,
      headers: { Authorization: `Bearer ${owner.token}` },
    };
    let sent = 0;
    const url = await new Promise<string>((resolve, reject) => {
      const upload = new Upload(bytes, {
        ...options,
        onError: reject,
        onSuccess: () => reject(new Error("it was to be broken off")),
        onChunkComplete: (_size, accepted) => {
          sent = accepted;
          upload.abort().then(() => resolve(upload.url ?? ""), reject);
        },
      });
      upload.start();
    });
    expect(sent).toBe(300_000);
    await new Promise<void>((resolve, reject) => {
      new Upload(bytes, { ...options, uploadUrl: url, onError: reject, onSuccess: () => resolve() }).start();
    });
    const path = new URL(url).pathname;
    const state = await app.call("GET", path, { token: owner.token });
    expect(state.body).toMatchObject({ size: bytes.length, received: bytes.length, file: null });
    const done = await app.call("POST", state.body.complete, { token: owner.token });
    expect([done.status, done.body.hash]).toEqual([201, sha256(bytes)]);
    expect((await app.call("GET", path, { token: owner.token })).body.file).toBe(`/api/files/${done.body.key}`);
    expect((await objects()).filter((key) => key.startsWith("pending"))).toEqual([]);
    const again = await app.call("POST", state.body.complete, { token: owner.token });
    expect([again.status, again.body.key]).toEqual([200, done.body.key]);
  });

  test("what arrived of a body that breaks off is kept", async () => {
    const bytes = model(400_000);
    const path = (await begin(bytes.length)).headers.get("location") ?? "";
    let at = 0;
    const broken = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (at > 200_000) return controller.error(new Error("the line is dead"));
        controller.enqueue(bytes.subarray(at, at + 50_000));
        at += 50_000;
      },
    });
    const headers = { ...tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream" };
    const request = new Request(`${app.config.publicUrl}${path}`, {
      method: "PATCH",
      body: broken,
      headers: { ...headers, Authorization: `Bearer ${owner.token}` },
    });
    await app.fetch(request).catch(() => undefined);
    const askOffset = async () => Number((await ask(path)).headers.get("upload-offset"));
    const received = await eventually(askOffset, (offset) => offset > 0);
    expect(received).toBeLessThanOrEqual(250_000);
    expect((await patch(path, received, bytes.subarray(received))).status).toBe(204);
    const done = await app.call("POST", `${path.replace("uploads", "files")}/complete`, { token: owner.token });
    expect([done.status, done.body.hash]).toEqual([201, sha256(bytes)]);
  });

  test("of two that go on from the same place one is told so", async () => {
    const bytes = model(100_000);
    const path = (await begin(bytes.length)).headers.get("location") ?? "";
    const answers = await Promise.all([1, 2].map(() => patch(path, 0, bytes.subarray(0, 50_000))));
    expect(answers.map(({ status }) => status).sort()).toEqual([204, 409]);
    expect((await patch(path, 0, bytes)).body.code).toBe("upload-offset");
    expect((await ask(path)).headers.get("upload-offset")).toBe("50000");
    expect((await patch(path, 50_000, Buffer.concat([bytes.subarray(50_000), Buffer.from("more")]))).status).toBe(413);
  });

  test("it is refused before it is whole, and for what it turns out to be", async () => {
    const text = Buffer.from("this is no model at all, and no picture either");
    const path = (await begin(text.length)).headers.get("location") ?? "";
    const complete = () => app.call("POST", `${path.replace("uploads", "files")}/complete`, { token: owner.token });
    expect((await complete()).body.code).toBe("upload-incomplete");
    await patch(path, 0, text);
    expect((await complete()).status).toBe(415);
  });

  test("it is its owner's alone, and given up leaves nothing", async () => {
    const stranger = await app.signUp();
    const path = (await begin(1_000)).headers.get("location") ?? "";
    await patch(path, 0, randomBytes(500));
    expect((await ask(path, stranger.token)).status).toBe(404);
    expect((await patch(path, 500, randomBytes(10), stranger.token)).status).toBe(404);
    const remove = (token: string) => app.call("DELETE", path, { token, headers: tus });
    expect((await remove(stranger.token)).status).toBe(404);
    expect((await remove(owner.token)).status).toBe(204);
    expect((await ask(path)).status).toBe(404);
    const key = path.split("/").at(-1) ?? "";
    expect((await objects()).filter((object) => object.includes(key))).toEqual([]);
  });

  test("the protocol's version is asked for, and told", async () => {
    const answer = await app.call("POST", "/api/uploads", { token: owner.token, headers: { "Upload-Length": "5" } });
    expect([answer.status, answer.headers.get("tus-version")]).toEqual([412, "1.0.0"]);
    const options = await app.call("OPTIONS", "/api/uploads");
    expect([options.status, options.headers.get("tus-extension")]).toEqual([204, "creation,termination,expiration"]);
    for (const length of ["", "-1", "1e3", "0"]) {
      const headers = { ...tus, "Upload-Length": length };
      expect((await app.call("POST", "/api/uploads", { token: owner.token, headers })).status).toBe(422);
    }
  });

  describe("the quota", () => {
    const noise = (bytes: number, who: Account) =>
      app.call("POST", "/api/files", {
        token: who.token,
        body: model(bytes),
        headers: { "Content-Type": "application/octet-stream" },
      });

    test("stops an upload while it streams, and what was there stays", async () => {
      const user = await app.signUp();
      expect((await noise(2_000_000, user)).status).toBe(201);
      let pulled = 0;
      const first = model(1_000_000);
      const endless = new ReadableStream<Uint8Array>({
        pull(controller) {
          controller.enqueue(pulled === 0 ? first : new Uint8Array(100_000));
          pulled += 100_000;
        },
      });
      const request = new Request(`${app.config.publicUrl}/api/files`, {
        method: "POST",
        body: endless,
        headers: { Authorization: `Bearer ${user.token}`, "Content-Type": "application/octet-stream" },
      });
      const answer = await app.fetch(request);
      expect([answer.status, ((await answer.json()) as Json).code]).toEqual([413, "quota-exceeded"]);
      expect(pulled).toBeLessThan(50_000_000); // what lies between the two of them may hold some more
      const { body } = await app.call("GET", "/api/files", { token: user.token });
      expect(body).toMatchObject({ total: 1, quota_bytes: 3_000_000 });
    });

    test("holds for uploads at the same time", async () => {
      const user = await app.signUp();
      const answers = await Promise.all([1, 2, 3, 4].map(() => noise(1_200_000, user)));
      expect(answers.map(({ status }) => status).sort()).toEqual([201, 201, 413, 413]);
      const { body } = await app.call("GET", "/api/files", { token: user.token });
      expect(body.total).toBe(2);
      const [file] = body.list;
      await app.call("DELETE", `/api/files/${file.key}`, { token: user.token });
      expect((await noise(1_200_000, user)).status).toBe(201);
    });

    test("counts the same bytes once", async () => {
      const user = await app.signUp();
      const headers = { "Content-Type": "application/octet-stream" };
      const options = { token: user.token, body: model(1_000_000), headers };
      for (let i = 0; i < 4; i += 1) expect((await app.call("POST", "/api/files", options)).status).toBe(201);
    });
  });
});

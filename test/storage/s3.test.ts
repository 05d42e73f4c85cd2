/** The S3 store: the contract against a double, and what only a network can do wrong. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { readConfig } from "../../src/config.ts";
import { Problem } from "../../src/problems.ts";
import { openStorage } from "../../src/storage/index.ts";
import { createS3Storage } from "../../src/storage/s3.ts";
import { failure, startFakeS3 } from "../helpers/s3.ts";
import { freshDirectory, read, removeDirectories, sha256, streamOf, testContract, type } from "./contract.ts";

afterAll(removeDirectories);

const hello = new TextEncoder().encode("hello");
const part = { partBytes: 1_000_000, largestCopyBytes: 1_000_000 };

const { s3: real } = readConfig(process.env);
if (real) {
  // Opt-in: a real server with an empty bucket, named by the S3_* variables.
  testContract("s3, a real server", async () => {
    const temporaryDirectory = await freshDirectory();
    const options = { ...real, partBytes: 5 * 1024 * 1024, largestCopyBytes: 5 * 1024 * 1024, temporaryDirectory };
    const storage = createS3Storage(options);
    return {
      storage,
      reopen: () => createS3Storage(options),
      leftovers: () => readdir(temporaryDirectory),
      arguments: ["s3", JSON.stringify(options)],
      close: async () => {
        for await (const { key } of storage.list()) await storage.delete(key);
      },
    };
  });
}

// The double cannot tell a wrong signature.
describe.if(real !== null)("URLs that a real server signs for", () => {
  const storage = real ? createS3Storage(real) : null;
  afterAll(() => storage?.delete("signed.bin"));
  const png = { "content-type": "image/png" };

  test("an upload of just the type and length that were signed, for a while", async () => {
    const options = { ttlSeconds: 60, contentType: "image/png", size: 5 };
    const url = (await storage?.signedUpload("signed.bin", options)) ?? "";
    const put = async (target: string, body: Uint8Array, headers: Record<string, string>) =>
      (await fetch(target, { method: "PUT", body: new Uint8Array(body), headers })).status;
    expect(await put(url, hello, { "content-type": "text/html" })).toBe(403);
    expect(await put(url, new TextEncoder().encode("hello, and more"), png)).toBe(403);
    expect(await put(url.replace("signed.bin", "other.bin"), hello, png)).toBe(403);
    const late = (await storage?.signedUpload("signed.bin", { ...options, ttlSeconds: 1 })) ?? "";
    await Bun.sleep(2_100);
    expect(await put(late, hello, png)).toBe(403);
    expect(await put(url, hello, png)).toBe(200);
  });

  test("a download under its name and type, for a while", async () => {
    const sign = (ttlSeconds: number) =>
      storage?.signedUrl("signed.bin", { ttlSeconds, contentType: "image/webp", fileName: "貓.webp" });
    const late = (await sign(1)) ?? "";
    await Bun.sleep(2_100);
    expect((await fetch(late)).status).toBe(403);
    const answer = await fetch((await sign(60)) ?? "");
    expect(await answer.text()).toBe("hello");
    expect(answer.headers.get("content-type")).toBe("image/webp");
    expect(answer.headers.get("content-disposition")).toContain("filename*=UTF-8''%E8%B2%93.webp");
  });
});

testContract("s3", async () => {
  const fake = startFakeS3();
  const temporaryDirectory = await freshDirectory();
  const options = { ...fake.options, ...part, temporaryDirectory };
  return {
    storage: createS3Storage(options),
    reopen: () => createS3Storage(options),
    leftovers: async () => [...(await readdir(temporaryDirectory)), ...fake.uploads.keys()],
    arguments: ["s3", JSON.stringify(options)],
    close: fake.stop,
  };
});

describe("over the network", async () => {
  const fake = startFakeS3();
  const temporaryDirectory = await freshDirectory();
  const storage = createS3Storage({ ...fake.options, ...part, temporaryDirectory });
  beforeEach(() => {
    fake.intercept = () => null;
    fake.carry = (bytes) => bytes;
    fake.requests.length = 0;
  });
  afterAll(() => fake.stop());

  test("the configuration with S3 opens S3", async () => {
    const opened = openStorage({ s3: fake.options, dataDir: await freshDirectory() });
    await opened.put("by/config", streamOf(hello), type);
    expect(fake.objects.get("by/config")?.bytes).toEqual(hello);
  });

  test("loading it does not load the SDK", async () => {
    const script = `await import(${JSON.stringify(`${import.meta.dir}/../../src/storage/index.ts`)});
      process.exit(Object.keys(require.cache).some((path) => path.includes("@aws-sdk")) ? 1 : 0);`;
    expect(await Bun.spawn([process.execPath, "-e", script]).exited).toBe(0);
  });

  test("objects carry their type and length, and no chunked encoding or checksum trailer", async () => {
    await storage.put("typed.png", streamOf(hello), { contentType: "image/png" });
    expect(fake.objects.get("typed.png")?.contentType).toBe("image/png");
    const headers = fake.requests.at(-1)?.headers;
    expect(headers?.get("content-length")).toBe("5");
    expect(headers?.has("x-amz-trailer")).toBe(false);
  });

  test.each([
    { what: "in one call", size: 5 },
    { what: "in parts", size: 2_500_000 },
  ])("what was changed after it was hashed is not stored, $what", async ({ size }) => {
    const path = join(await freshDirectory(), "changed");
    const bytes = new Uint8Array(randomBytes(size));
    const hash = sha256(bytes);
    bytes[size - 1] = 255 - (bytes[size - 1] as number);
    await writeFile(path, bytes);
    const changed = storage.put("changed", { path, size, hash }, type);
    await expect(changed).rejects.toMatchObject({ code: "storage-unavailable" });
    expect(fake.objects.has("changed")).toBe(false);
    expect(fake.uploads.size).toBe(0);
  });

  test.each([
    { what: "a stream", size: 500_000 },
    { what: "a stream in parts", size: 2_500_000 },
  ])("$what that is damaged on its way is sent again, and not stored when it always is", async ({ size }) => {
    const body = new Uint8Array(randomBytes(size));
    let faults = 1;
    fake.carry = (bytes) => (faults-- > 0 ? bytes.map((byte) => 255 - byte) : bytes);
    await storage.put("carried.bin", streamOf(body), type);
    expect(sha256(fake.objects.get("carried.bin")?.bytes ?? hello)).toBe(sha256(body));
    faults = Number.POSITIVE_INFINITY;
    const damaged = storage.put("damaged.bin", streamOf(body), type);
    await expect(damaged).rejects.toMatchObject({ code: "storage-unavailable" });
    expect(fake.objects.has("damaged.bin")).toBe(false);
    expect(fake.uploads.size).toBe(0);
  });

  test("what is larger than one call goes and moves in parts, under the same type", async () => {
    const bytes = new Uint8Array(randomBytes(3_500_000));
    await storage.put("parts.bin", streamOf(bytes), { contentType: "model/x" });
    expect(fake.requests.filter(({ path }) => path.includes("partNumber"))).toHaveLength(4);
    await storage.move("parts.bin", "moved.bin");
    expect(fake.requests.filter(({ path }) => path.includes("partNumber"))).toHaveLength(8);
    expect(sha256(await read(storage, "moved.bin"))).toBe(sha256(bytes));
    expect(fake.objects.get("moved.bin")?.contentType).toBe("model/x");
    expect(fake.objects.has("parts.bin")).toBe(false);
  });

  test("an upload in parts that fails is taken back", async () => {
    fake.intercept = ({ url }) => (url.includes("partNumber=3") ? failure(400, "EntityTooSmall") : null);
    const stored = storage.put("broken.bin", streamOf(new Uint8Array(3_500_000)), type);
    await expect(stored).rejects.toMatchObject({ code: "storage-unavailable" });
    expect(fake.objects.has("broken.bin")).toBe(false);
    expect(fake.uploads.size).toBe(0);
    expect(await readdir(temporaryDirectory)).toEqual([]);
  });

  test.each([
    { what: "a stream", bytes: 500_000 },
    { what: "a stream in parts", bytes: 2_500_000 },
  ])("a store that stumbles once gets $what sent again", async ({ bytes }) => {
    const body = new Uint8Array(randomBytes(bytes));
    let faults = 1;
    fake.intercept = ({ method }) => (method === "PUT" && faults-- > 0 ? failure(503, "SlowDown") : null);
    await storage.put("again.bin", streamOf(body), type);
    expect(sha256(fake.objects.get("again.bin")?.bytes ?? hello)).toBe(sha256(body));
  });

  test.each([
    { what: "is down", status: 500, code: "InternalError" },
    { what: "knows no such key id", status: 403, code: "InvalidAccessKeyId" },
    { what: "has no such bucket", status: 404, code: "NoSuchBucket" },
  ])("a store that $what is storage-unavailable; its words stay in the log", async ({ status, code }) => {
    fake.intercept = ({ method }) => (method === "HEAD" ? null : failure(status, code));
    const problem = await storage.put("refused", hello, type).catch((error) => error);
    expect(problem).toBeInstanceOf(Problem);
    expect(problem.code).toBe("storage-unavailable");
    expect(problem.cause.name).toContain(code);
    await expect(storage.delete("refused")).rejects.toMatchObject({ code: "storage-unavailable" });
    expect(JSON.stringify(problem)).not.toContain(code);
  });

  test("a store that nobody listens for is storage-unavailable", async () => {
    const gone = startFakeS3();
    await gone.stop();
    const unreachable = createS3Storage({ ...gone.options, temporaryDirectory });
    await expect(unreachable.get("a")).rejects.toMatchObject({ code: "storage-unavailable" });
    await expect(unreachable.id()).rejects.toMatchObject({ code: "storage-unavailable" });
  });

  test("an object replaced while it is read fails the stream rather than mixing two", async () => {
    await storage.put("replaced", hello, type);
    const object = await storage.get("replaced");
    await storage.put("replaced", new TextEncoder().encode("other"), type);
    await expect(new Response(object?.stream()).text()).rejects.toMatchObject({ code: "storage-unavailable" });
  });

  test.each([
    { what: "a connection cut", ends: true },
    { what: "a store that falls silent", ends: false },
  ])("$what in the middle of an object fails the stream", async ({ ends }) => {
    const head = 'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n';
    await using server = await serveRaw((socket, request) => {
      socket.write(head);
      if (request.startsWith("GET")) socket.write("x".repeat(100));
      if (ends || request.startsWith("HEAD")) socket.end();
    });
    const object = await createS3Storage({ ...fake.options, endpoint: server.endpoint, stallMs: 50 }).get("cut");
    expect(object?.size).toBe(1000);
    await expect(new Response(object?.stream()).bytes()).rejects.toMatchObject({ code: "storage-unavailable" });
  });

  test("a store that never answers is storage-unavailable after a while", async () => {
    await using server = await serveRaw(() => undefined);
    const dumb = createS3Storage({ ...fake.options, endpoint: server.endpoint, callTimeoutMs: 50 });
    await expect(dumb.get("a")).rejects.toMatchObject({ code: "storage-unavailable" });
    await expect(dumb.put("a", hello, type)).rejects.toMatchObject({ code: "storage-unavailable" });
  });

  test("a slow reader is not taken for a slow store", async () => {
    await storage.put("slow", new Uint8Array(3_000_000), type);
    const hurried = createS3Storage({ ...fake.options, callTimeoutMs: 200, stallMs: 200 });
    const reader = (await hurried.get("slow"))?.stream().getReader();
    let bytes = (await reader?.read())?.value?.length ?? 0;
    await new Promise((resolve) => setTimeout(resolve, 250)); // longer than both limits: the time itself is the case
    for (let next = await reader?.read(); next?.value; next = await reader?.read()) bytes += next.value.length;
    expect(bytes).toBe(3_000_000);
  });

  test("a signed URL serves the object under the type and name it was signed for", async () => {
    await storage.put("signed.bin", hello, type);
    const url = await storage.signedUrl("signed.bin", {
      ttlSeconds: 60,
      contentType: "image/png",
      fileName: '貓 "1".png',
    });
    const answer = await fetch(url ?? "");
    expect(await answer.text()).toBe("hello");
    expect(answer.headers.get("content-type")).toBe("image/png");
    expect(answer.headers.get("content-disposition")).toBe(
      `attachment; filename="_ _1_.png"; filename*=UTF-8''%E8%B2%93%20%221%22.png`,
    );
    expect(new URL(url ?? "").searchParams.get("X-Amz-Expires")).toBe("60");
    expect((await fetch(`${fake.options.endpoint}/atelier/signed.bin`)).status).toBe(403);
  });

  test("a signed upload binds length and type", async () => {
    const url = await storage.signedUpload("pending/a", { ttlSeconds: 3600, contentType: "image/png", size: 5 });
    const names = new URL(url ?? "").searchParams.get("X-Amz-SignedHeaders");
    expect(names).toBe("content-length;content-type;host");
    const put = await fetch(url ?? "", { method: "PUT", body: hello, headers: { "content-type": "image/png" } });
    expect(put.status).toBe(200);
    expect(await read(storage, "pending/a")).toEqual(hello);
  });

  test("an id that another process stores at the same moment is taken over", async () => {
    fake.objects.delete("storage-id");
    fake.intercept = ({ method }) => {
      const bytes = new TextEncoder().encode("the other's");
      if (method === "PUT")
        fake.objects.set("storage-id", { bytes, contentType: "text/plain", etag: '"1"', storedAt: new Date() });
      return null;
    };
    expect(await storage.id()).toBe("the other's");
  });

  test("a store that knows no conditions still gets an id", async () => {
    fake.objects.delete("storage-id");
    fake.intercept = ({ headers }) => (headers.has("if-none-match") ? failure(501, "NotImplemented") : null);
    expect(await storage.id()).toBe(await storage.id());
  });
});

/** A server below HTTP: `answer` gets the socket and the head of each request. */
async function serveRaw(answer: (socket: Socket, request: string) => void) {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (data) => answer(socket, data.toString()));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { endpoint, [Symbol.asyncDispose]: async () => void server.close() };
}

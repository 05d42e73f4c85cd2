/** Uploads over a real server: what is taken, what is refused, how much is read, and what is left behind. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { readdir, stat } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import sharp from "sharp";
import { Problem } from "../../src/problems.ts";
import { receiveUpload, type Upload } from "../../src/storage/upload.ts";
import { freshDirectory, removeDirectories, sha256, streamOf } from "./contract.ts";

afterAll(removeDirectories);

const directory = await freshDirectory();
const limits = { picture: 5_000_000, model: 25_000_000 };
/** Bytes of the body that the last request's handler read. */
let taken = 0;
let handled = Promise.withResolvers<unknown>();
beforeEach(() => {
  taken = 0;
  handled = Promise.withResolvers();
});

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  maxRequestBodySize: 2 ** 40,
  async fetch(request) {
    try {
      const upload = await receiveUpload(counted(request), { directory, limits });
      handled.resolve(upload);
      const bytes = await Bun.file(upload.path).bytes();
      await upload.dispose();
      await upload.dispose();
      return Response.json({ ...upload, stored: sha256(bytes) }, { status: 201 });
    } catch (error) {
      handled.resolve(error);
      if (!(error instanceof Problem)) throw error;
      return Response.json(error, { status: error.status, headers: { "content-type": "application/problem+json" } });
    }
  },
});
afterAll(() => server.stop(true));

function counted(request: Request): Request {
  if (!request.body) return request;
  const counter = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      taken += chunk.length;
      controller.enqueue(chunk);
    },
  });
  const { url, method, headers } = request;
  return new Request(url, { method, headers, body: request.body.pipeThrough(counter), duplex: "half" } as RequestInit);
}

const noise = { type: "gaussian" as const, mean: 128, sigma: 40 };
const png = await sharp({ create: { width: 200, height: 200, channels: 3, background: "red", noise } })
  .png()
  .toBuffer();
const header = new TextEncoder().encode(JSON.stringify({ a: { dtype: "U8", shape: [1], data_offsets: [0, 1] } }));
const model = new Uint8Array(8 + header.length + 1);
new DataView(model.buffer).setUint32(0, header.length, true);
model.set(header, 8);

interface Answer {
  status: number;
  code?: string;
  detail?: string;
  errors?: { pointer: string }[];
  kind?: string;
  fileName?: string | null;
  hash?: string;
  stored?: string;
  size?: number;
}

async function post(body: BodyInit, headers: Record<string, string> = {}): Promise<Answer> {
  const answer = await fetch(server.url, { method: "POST", body, headers, duplex: "half" } as RequestInit);
  expect(answer.headers.get("connection")).not.toBe("close");
  if (answer.status !== 201) expect(answer.headers.get("content-type")).toBe("application/problem+json");
  return { status: answer.status, ...((await answer.json()) as object) };
}

function form(...parts: [name: string, content: Uint8Array | string, fileName?: string][]): FormData {
  const data = new FormData();
  for (const [name, content, fileName] of parts) {
    if (typeof content === "string") data.append(name, content);
    else data.append(name, new Blob([content as BlobPart]), fileName ?? "upload.bin");
  }
  return data;
}

/** A picture's beginning and then noise: enough for the intake, which does not decode. */
function picture(bytes: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(bytes).fill(7);
  data.set(png.subarray(0, 64));
  return data;
}

describe("taken", () => {
  const chunked = () => streamOf(png, 1000);
  test.each([
    { what: "a picture as the raw body", send: () => post(png), kind: "picture", bytes: png },
    { what: "a picture as a chunked body", send: () => post(chunked()), kind: "picture", bytes: png },
    { what: "a picture in a form", send: () => post(form(["file", png])), kind: "picture", bytes: png },
    { what: "a model as the raw body", send: () => post(model), kind: "model", bytes: model },
    { what: "a model in a form", send: () => post(form(["file", model])), kind: "model", bytes: model },
    { what: "one that arrives byte by byte", send: () => post(streamOf(model, 1)), kind: "model", bytes: model },
    {
      what: "one whose declared type is wrong",
      send: () => post(png, { "content-type": "application/json" }),
      kind: "picture",
      bytes: png,
    },
    {
      what: "a picture as long as allowed",
      send: () => post(picture(5_000_000)),
      kind: "picture",
      bytes: picture(5_000_000),
    },
    {
      what: "a picture as long as allowed, in a form",
      send: () => post(form(["file", picture(5_000_000)])),
      kind: "picture",
      bytes: picture(5_000_000),
    },
  ])("$what", async ({ send, kind, bytes }) => {
    const answer = await send();
    expect(answer).toMatchObject({ status: 201, kind, size: bytes.length, hash: sha256(bytes), stored: sha256(bytes) });
    expect(await readdir(directory)).toEqual([]);
  });

  test.each([
    { given: "貓咪.png", kept: "貓咪.png" },
    { given: "../../etc/passwd", kept: "passwd" },
    { given: "C:\\fakepath\\a.png", kept: "a.png" },
    { given: `${"長".repeat(300)}.png`, kept: `${"長".repeat(196)}.png` },
    { given: "a\u202Egnp.exe", kept: "agnp.exe" },
  ])("a file named $given is shown as $kept", async ({ given, kept }) => {
    expect((await post(form(["file", png, given]))).fileName).toBe(kept);
  });

  test("a raw body has no name", async () => {
    expect((await post(png)).fileName).toBeNull();
  });
});

describe("refused", () => {
  const boundary = { "content-type": "multipart/form-data; boundary=x" };
  const part = (name: string) => `--x\r\nContent-Disposition: form-data; name="${name}"; filename="a.png"\r\n\r\n`;
  test.each([
    { what: "no body", send: () => post(new Uint8Array()), status: 422, says: "empty" },
    { what: "an empty file", send: () => post(form(["file", new Uint8Array()])), status: 422, says: "empty" },
    { what: "an empty form", send: () => post("--x--\r\n", boundary), status: 422, says: "missing" },
    {
      what: "a text in place of the file",
      send: () => post(form(["file", "abc"])),
      status: 422,
      says: "must be a file",
    },
    { what: "two files", send: () => post(form(["file", png], ["file", png])), status: 422, says: "one file" },
  ])("$what: $status", async ({ send, status, says }) => {
    const answer = await send();
    expect(answer.status).toBe(status);
    expect(answer.detail).toContain(says);
    if (status === 422) expect(answer.errors).toMatchObject([{ pointer: "/file" }]);
    expect(await readdir(directory)).toEqual([]);
  });

  test.each([
    { what: "another file", body: form(["picture", png]), pointer: "/picture" },
    { what: "another file after the right one", body: form(["file", png], ["other", png]), pointer: "/other" },
    { what: "a field before the file", body: form(["title", "x"], ["file", png]), pointer: "/title" },
    { what: "a field after the file", body: form(["file", png], ["a/b", "x"]), pointer: "/a~1b" },
  ])("$what is named: $pointer", async ({ body, pointer }) => {
    expect(await post(body)).toMatchObject({ status: 422, code: "invalid", errors: [{ pointer }] });
    expect(await readdir(directory)).toEqual([]);
  });

  test("a second file is refused also when the first has long been stored", async () => {
    const first = Buffer.concat([Buffer.from(part("file")), png, Buffer.from("\r\n")]);
    const second = Buffer.concat([Buffer.from(part("file")), png, Buffer.from("\r\n--x--\r\n")]);
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        controller.enqueue(Buffer.concat([first, second.subarray(0, 20)]));
        await fileAppears(png.length);
        controller.enqueue(second.subarray(20));
        controller.close();
      },
    });
    expect(await post(body, boundary)).toMatchObject({ status: 422, detail: expect.stringContaining("one file") });
    expect(await readdir(directory)).toEqual([]);
  });

  test.each([
    { what: "no boundary", headers: { "content-type": "multipart/form-data" }, body: part("file") },
    { what: "the wrong boundary", headers: boundary, body: part("file").replace("--x", "--y") },
    { what: "an end within the file", headers: boundary, body: Buffer.concat([Buffer.from(part("file")), png]) },
    { what: "an end within the part's head", headers: boundary, body: part("file").slice(0, 30) },
    { what: "no form at all", headers: boundary, body: png },
  ])("a form with $what is broken", async ({ headers, body }) => {
    expect(await post(body, headers)).toMatchObject({ status: 422, code: "invalid" });
    expect(await readdir(directory)).toEqual([]);
  });

  test.each([
    { what: "a text", body: "hello" },
    { what: "JSON", body: "{}" },
    { what: "a pickle", body: "\x80\x02}q\0." },
    { what: "a ZIP", body: "PK\x03\x04 and so on" },
    { what: "an SVG", body: "<svg/>" },
    { what: "a GIF", body: "GIF89a and so on" },
  ])("$what is 415, raw and in a form", async ({ body }) => {
    const bytes = Buffer.from(body, "latin1");
    for (const sent of [bytes, form(["file", bytes, "a.png"])]) {
      expect(await post(sent)).toMatchObject({ status: 415, code: "unsupported-media-type" });
    }
    expect(await readdir(directory)).toEqual([]);
  });
});

describe("too large", () => {
  const huge = 20_000_000;
  const formOf = (bytes: number) => form(["file", picture(bytes)]);
  const enough = limits.picture + 1_000_000;
  /** Sends so much and then waits: a server that is busy is handed what has come meanwhile, however much that is. */
  const withheld = (bytes: Uint8Array, from: number) => {
    const sent = streamOf(bytes.subarray(0, from)).getReader();
    return new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { value } = await sent.read();
        if (value) controller.enqueue(value);
        else await handled.promise;
      },
    });
  };
  test.each([
    { what: "raw, declared", send: () => post(picture(huge)), read: 1_000_000 },
    { what: "in a form, declared", send: () => post(formOf(huge)), read: 1_000_000 },
    { what: "raw, chunked", send: () => post(withheld(picture(huge), enough)), read: enough },
    { what: "one byte too long, raw", send: () => post(picture(5_000_001)), read: huge },
    { what: "one byte too long, in a form", send: () => post(formOf(5_000_001)), read: huge },
    { what: "one byte too long, chunked", send: () => post(streamOf(picture(5_000_001))), read: huge },
  ])("a picture $what gets its 413, and the rest is not read", async ({ send, read }) => {
    const answer = await send();
    expect(answer).toMatchObject({ status: 413, code: "too-large", detail: "At most 5000000 bytes are accepted." });
    expect(taken).toBeLessThanOrEqual(read);
    expect(await readdir(directory)).toEqual([]);
  });

  test("a body beyond every limit is refused by its declared length alone", async () => {
    const answer = await post(new Uint8Array(26_000_000));
    expect(answer).toMatchObject({ status: 413, detail: "At most 25000000 bytes are accepted." });
    expect(taken).toBe(0);
  });

  test("a model has its own limit", async () => {
    const long = new Uint8Array(25_000_001);
    long.set(model);
    expect(await post(streamOf(long))).toMatchObject({ status: 413, detail: "At most 25000000 bytes are accepted." });
    expect(await post(long.subarray(0, 25_000_000))).toMatchObject({ status: 201, kind: "model" });
  });

  test.each([
    { what: "field", head: '--x\r\nContent-Disposition: form-data; name="title"\r\n\r\n' },
    { what: "part without a name", head: "--x\r\nContent-Disposition: form-data\r\n\r\n" },
    { what: "preamble", head: "" },
  ])("an endless $what is not read to its end", async ({ head }) => {
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(new TextEncoder().encode(head || "before")),
      pull(controller) {
        sent += 100_000;
        if (sent > huge) controller.close();
        else controller.enqueue(new Uint8Array(100_000).fill(97));
      },
    });
    expect(await post(body, { "content-type": "multipart/form-data; boundary=x" })).toMatchObject({ status: 422 });
    expect(taken).toBeLessThan(3_000_000);
  });

  test.each([
    { what: "raw", type: "image/png", head: "", expectation: "" },
    { what: "raw, asking first", type: "image/png", head: "", expectation: "Expect: 100-continue\r\n" },
    {
      what: "in a form",
      type: "multipart/form-data; boundary=x",
      head: '--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n',
      expectation: "",
    },
  ])("a client that writes all before it reads gets the answer too ($what)", async ({ type, head, expectation }) => {
    const body = Buffer.concat([Buffer.from(head), picture(huge)]);
    const socket = connect(server.port ?? 0, "127.0.0.1");
    await once(socket, "connect");
    socket.pause();
    socket.write(
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n${expectation}\r\n`,
    );
    await new Promise<void>((resolve, reject) => socket.write(body, (error) => (error ? reject(error) : resolve())));
    let answer = "";
    for await (const chunk of socket) {
      answer += chunk;
      if (answer.includes("too-large")) break;
    }
    expect(answer.replace("HTTP/1.1 100 Continue\r\n\r\n", "")).toStartWith("HTTP/1.1 413");
    expect(answer).toContain("application/problem+json");
  });
});

describe("a client that goes away", () => {
  test.each([
    { what: "raw", type: "image/png", head: "" },
    {
      what: "in a form",
      type: "multipart/form-data; boundary=x",
      head: '--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n',
    },
  ])("in the middle of a file leaves nothing behind ($what)", async ({ type, head }) => {
    const socket = connect(server.port ?? 0, "127.0.0.1");
    await once(socket, "connect");
    socket.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Type: ${type}\r\nContent-Length: 290000\r\n\r\n${head}`);
    socket.write(picture(100_000));
    await fileAppears();
    socket.destroy();
    expect(await handled.promise).toMatchObject({ code: "invalid" });
    expect(await readdir(directory)).toEqual([]);
  });
});

test("a temporary directory that cannot be made is the store's failure", async () => {
  const request = new Request("http://a/", { method: "POST", body: png });
  const received = receiveUpload(request, { directory: "/dev/null/uploads" });
  await expect(received).rejects.toMatchObject({ code: "storage-unavailable" });
});

test("a request made in this process is taken like one from a server", async () => {
  const request = new Request("http://a/", { method: "POST", body: form(["file", png, "a.png"]) });
  const upload: Upload = await receiveUpload(request, { directory });
  expect(upload).toMatchObject({ kind: "picture", size: png.length, fileName: "a.png" });
  await upload.dispose();
  expect(await readdir(directory)).toEqual([]);
});

/** Waits until the server has written so much of a file, without a guess at how long that takes. */
async function fileAppears(bytes = 0): Promise<void> {
  const written = async ([name]: string[]) => (name === undefined ? -1 : (await stat(join(directory, name))).size);
  while ((await written(await readdir(directory))) < bytes) await new Promise(setImmediate);
}

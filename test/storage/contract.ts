/** What every store must do: one suite, run over each of them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ByteRange, Storage } from "../../src/storage/storage.ts";

export interface Opened {
  storage: Storage;
  /** Another process's view of the same store. */
  reopen(): Storage;
  /** What lies in the store or its temporary directory and is no stored object. */
  leftovers(): Promise<string[]>;
  /** Arguments for print-id.ts. */
  arguments: string[];
  close(): Promise<void>;
}

export const type = { contentType: "application/octet-stream" };

export function testContract(name: string, open: () => Promise<Opened>): void {
  describe(name, () => {
    let opened: Opened;
    let storage: Storage;
    beforeAll(async () => {
      opened = await open();
      storage = opened.storage;
    });
    afterAll(() => opened.close());

    test("processes that start together agree on one id, which lasts", async () => {
      const script = join(import.meta.dir, "print-id.ts");
      const children = Array.from({ length: 4 }, () => {
        const [stdin, stdout, stderr] = ["pipe", "pipe", "inherit"] as const;
        return Bun.spawn([process.execPath, script, ...opened.arguments], { stdin, stdout, stderr });
      });
      const outputs = children.map((child) => child.stdout.pipeThrough(new TextDecoderStream()).getReader());
      await Promise.all(outputs.map((output) => output.read())); // each has loaded and says so
      for (const child of children) {
        child.stdin.write("go");
        child.stdin.end();
      }
      const ids = (await Promise.all(outputs.map(async (output) => (await output.read()).value ?? ""))).join("").trim();
      expect(new Set(ids.split("\n")).size).toBe(1);
      const [id = ""] = ids.split("\n");
      expect(id).toMatch(/^[0-9a-f-]{36}$/);
      expect(await storage.id()).toBe(id);
      expect(await opened.reopen().id()).toBe(id);
      expect(await opened.leftovers()).toEqual([]);
    });

    const bytes = new Uint8Array(randomBytes(3_000_000));
    test.each([
      { what: "a stream", body: async () => streamOf(bytes) },
      { what: "bytes", body: async () => bytes },
      { what: "a file", body: () => fileOf(bytes) },
    ])("stores $what and tells size and hash", async ({ what, body }) => {
      const key = `bodies/${what.replaceAll(" ", "-")}.bin`;
      expect(await storage.put(key, await body(), type)).toEqual({ size: bytes.length, hash: sha256(bytes) });
      expect(sha256(await read(storage, key))).toBe(sha256(bytes));
      expect((await opened.reopen().get(key))?.size).toBe(bytes.length);
      expect(await opened.leftovers()).toEqual([]);
    });

    test.each([
      { what: "a stream", body: async () => streamOf(new Uint8Array()) },
      { what: "bytes", body: async () => new Uint8Array() },
      { what: "a file", body: () => fileOf(new Uint8Array()) },
    ])("stores nothing at all from $what", async ({ body }) => {
      expect((await storage.put("empty", await body(), type)).size).toBe(0);
      expect((await storage.get("empty"))?.size).toBe(0);
      expect(await read(storage, "empty")).toEqual(new Uint8Array());
    });

    const digits = new TextEncoder().encode("0123456789");
    test.each([
      { range: { start: 0, end: 0 }, text: "0" },
      { range: { start: 3, end: 6 }, text: "3456" },
      { range: { start: 9, end: 9 }, text: "9" },
      { range: { start: 5, end: 99 }, text: "56789" },
      { range: { start: 0, end: 9 }, text: "0123456789" },
      { range: { start: 10, end: 20 }, text: "" },
    ])("reads $range of ten digits as '$text' and still tells the whole size", async ({ range, text }) => {
      await storage.put("digits", digits, type);
      expect((await storage.get("digits", range))?.size).toBe(10);
      expect(new TextDecoder().decode(await read(storage, "digits", range))).toBe(text);
    });

    test("an object larger than any buffer streams whole and in part", async () => {
      await storage.put("large", streamOf(bytes), type);
      const part = { start: 1_000_001, end: 2_500_000 };
      expect(sha256(await read(storage, "large", part))).toBe(sha256(bytes.subarray(1_000_001, 2_500_001)));
    });

    test("a reader that stops early harms nobody", async () => {
      await storage.put("stopped", bytes, type);
      const reader = (await storage.get("stopped"))?.stream().getReader();
      expect((await reader?.read())?.value?.length).toBeGreaterThan(0);
      await reader?.cancel();
      expect(sha256(await read(storage, "stopped"))).toBe(sha256(bytes));
    });

    test("a key stored again is replaced", async () => {
      await storage.put("twice", bytes, type);
      await storage.put("twice", digits, type);
      expect(await read(storage, "twice")).toEqual(digits);
    });

    test("of puts to one key at the same time one wins, whole", async () => {
      const bodies = Array.from({ length: 8 }, (_, n) => new Uint8Array(300_000 + n).fill(n));
      const put = await Promise.all(bodies.map((body) => storage.put("contended", streamOf(body), type)));
      expect(put.map(({ hash }) => hash)).toEqual(bodies.map(sha256));
      expect(bodies.map(sha256)).toContain(sha256(await read(storage, "contended")));
      expect(await opened.leftovers()).toEqual([]);
    });

    test("a body that fails midway leaves the key as it was, and nothing else", async () => {
      const fault = new Error("the sender went away");
      await storage.put("kept", digits, type);
      await expect(storage.put("kept", failing(bytes, fault), type)).rejects.toBe(fault);
      await expect(storage.put("never", failing(bytes, fault), type)).rejects.toBe(fault);
      expect(await read(storage, "kept")).toEqual(digits);
      expect(await storage.get("never")).toBeNull();
      expect(await opened.leftovers()).toEqual([]);
    });

    test("a body of just maxBytes is stored; one byte more is refused, and the rest is not asked for", async () => {
      expect((await storage.put("fits", streamOf(digits), { ...type, maxBytes: 10 })).size).toBe(10);
      let isCancelled = false;
      const endless = new ReadableStream<Uint8Array>({
        pull: (controller) => controller.enqueue(digits),
        cancel() {
          isCancelled = true;
        },
      });
      for (const body of [endless, digits, await fileOf(digits)]) {
        const refusal = storage.put("long", body, { ...type, maxBytes: 9 });
        await expect(refusal).rejects.toMatchObject({ code: "too-large" });
      }
      expect(isCancelled).toBe(true);
      expect(await storage.get("long")).toBeNull();
      expect(await opened.leftovers()).toEqual([]);
    });

    test("what is deleted is gone; deleting it again is no error", async () => {
      await storage.put("digits", digits, type);
      await storage.put("gone/object", digits, type);
      await storage.delete("gone/object");
      expect(await storage.get("gone/object")).toBeNull();
      await storage.delete("gone/object");
      await storage.delete("never/was");
      expect(await storage.get("digits/below")).toBeNull();
      await storage.delete("digits/below");
      await storage.put("above/object", digits, type);
      expect(await storage.get("above")).toBeNull();
      await storage.delete("above");
      expect(await read(storage, "digits")).toEqual(digits);
    });

    test("every object is listed once, in the order of its key, with size and age, and nothing else", async () => {
      const keys = ["listed/b", "listed/a", "listed-c.png", "listed.png", "Listed", "listed/a.b/c", "listed_d"];
      for (const key of keys) await storage.put(key, digits, type);
      const listed = [];
      for await (const object of storage.list()) listed.push(object);
      const all = listed.map(({ key }) => key);
      expect(all).toEqual([...new Set(all)].sort());
      expect(all.filter((key) => keys.includes(key))).toEqual(keys.toSorted());
      for (const key of all) expect(await storage.get(key)).not.toBeNull();
      const [one] = listed.filter(({ key }) => key === "Listed");
      expect(one?.size).toBe(10);
      expect(Math.abs(Date.now() - (one?.modifiedAt.getTime() ?? 0))).toBeLessThan(600_000);
      for (const key of keys) await storage.delete(key);
    });

    test("move renames, replacing what was there", async () => {
      await storage.put("from/here", digits, type);
      await storage.put("to/there", bytes, type);
      await storage.move("from/here", "to/there");
      expect(await storage.get("from/here")).toBeNull();
      expect(await read(storage, "to/there")).toEqual(digits);
      await storage.move("to/there", "to/there");
      expect(await read(storage, "to/there")).toEqual(digits);
    });

    test("moving what is not there is not-found, and leaves the target", async () => {
      await storage.put("target", digits, type);
      await expect(storage.move("missing", "target")).rejects.toMatchObject({ code: "not-found" });
      expect(await read(storage, "target")).toEqual(digits);
    });

    test.each([
      "..",
      "../escape",
      "a/../../escape",
      "a/..",
      "/etc/passwd",
      "a//b",
      "a/",
      "",
      ".",
      ".id",
      ".tmp/x",
      "a/.hidden",
      "a\\..\\b",
      "a\0b",
      "a\nb",
      "貓",
      "%2e%2e/x",
      "a".repeat(201),
      Array(12).fill("a").join("/"),
    ])("no object can have the key %j", async (key) => {
      expect(await storage.get(key)).toBeNull();
      await storage.delete(key);
      await storage.put("good", digits, type);
      await expect(storage.put(key, digits, type)).rejects.toBeInstanceOf(RangeError);
      await expect(storage.move("good", key)).rejects.toBeInstanceOf(RangeError);
      await expect(storage.move(key, "good")).rejects.toBeInstanceOf(RangeError);
      expect(await read(storage, "good")).toEqual(digits);
    });
  });
}

export async function read(storage: Storage, key: string, range?: ByteRange): Promise<Uint8Array> {
  const object = await storage.get(key, range);
  if (!object) throw new Error(`no object ${key}`);
  return new Uint8Array(await new Response(object.stream()).arrayBuffer());
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** In chunks, so that it takes several turns. */
export function streamOf(bytes: Uint8Array, chunkBytes = 100_000): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, at + chunkBytes));
      at += chunkBytes;
    },
  });
}

export function failing(bytes: Uint8Array, fault: Error): ReadableStream<Uint8Array> {
  const source = streamOf(bytes).getReader();
  let chunks = 0;
  return new ReadableStream({
    async pull(controller) {
      chunks += 1;
      if (chunks > 10) controller.error(fault);
      else controller.enqueue((await source.read()).value ?? new Uint8Array());
    },
  });
}

const directories: string[] = [];

/** Goes with `removeDirectories`, which every test file that takes one calls at its end. */
export async function freshDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "atelier-storage-"));
  directories.push(path);
  return path;
}

/** A hook in this file would run for the first test file only; `exit` is never emitted under `bun test`. */
export async function removeDirectories(): Promise<void> {
  await Promise.all(directories.splice(0).map((path) => rm(path, { recursive: true, force: true })));
}

async function fileOf(bytes: Uint8Array) {
  const path = join(await freshDirectory(), "file");
  await writeFile(path, bytes);
  return { path, size: bytes.length, hash: sha256(bytes) };
}

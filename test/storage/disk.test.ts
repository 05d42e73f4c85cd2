/** The disk store: the contract, and what only a disk can do wrong. */
import { afterAll, expect, test } from "bun:test";
import { readdir, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Problem } from "../../src/problems.ts";
import { createDiskStorage } from "../../src/storage/disk.ts";
import { openStorage } from "../../src/storage/index.ts";
import { freshDirectory, read, removeDirectories, testContract, type } from "./contract.ts";

afterAll(removeDirectories);

const hello = new TextEncoder().encode("hello");

testContract("disk", async () => {
  const directory = await freshDirectory();
  return {
    storage: createDiskStorage(directory),
    reopen: () => createDiskStorage(directory),
    leftovers: () => readdir(join(directory, ".tmp")),
    arguments: ["disk", directory],
    close: async () => undefined,
  };
});

test("the configuration without S3 opens the disk below its data directory", async () => {
  const dataDir = await freshDirectory();
  await openStorage({ s3: null, dataDir }).put("a/b", hello, type);
  expect(await readdir(join(dataDir, "files", "a"))).toEqual(["b"]);
});

test("there are no signed URLs on disk", async () => {
  const storage = createDiskStorage(await freshDirectory());
  expect(await storage.signedUrl("a", { ttlSeconds: 60, ...type })).toBeNull();
  expect(await storage.signedUpload("a", { ttlSeconds: 60, size: 1, ...type })).toBeNull();
});

test("an upload on the same file system is linked, not copied, and outlives its first name", async () => {
  const directory = await freshDirectory();
  const storage = createDiskStorage(join(directory, "files"));
  const path = join(directory, "upload");
  await writeFile(path, hello);
  await storage.put("linked", { path, size: 5, hash: "known" }, type);
  expect((await stat(path)).ino).toBe((await stat(join(directory, "files/linked"))).ino);
  await Bun.file(path).delete();
  expect(await read(storage, "linked")).toEqual(hello);
});

test("a process killed in the middle of a put leaves no object, and a later one removes what it left", async () => {
  const directory = await freshDirectory();
  const script = `
    import { createDiskStorage } from ${JSON.stringify(join(import.meta.dir, "../../src/storage/disk.ts"))};
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(new Uint8Array(1000000));
        process.stdout.write(".");
      },
    });
    await createDiskStorage(${JSON.stringify(directory)}).put("half", body, { contentType: "" });`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  let chunks = 0;
  for await (const dots of child.stdout) {
    chunks += dots.length;
    if (chunks > 3) child.kill("SIGKILL");
  }
  await child.exited;

  const [left = ""] = await readdir(join(directory, ".tmp"));
  expect((await stat(join(directory, ".tmp", left))).size).toBeGreaterThan(0);
  await createDiskStorage(directory).put("other", hello, type);
  expect(await createDiskStorage(directory).get("half")).toBeNull();
  expect(await readdir(join(directory, ".tmp"))).toEqual([left]); // too young: it may be another process's

  const old = new Date(Date.now() - 25 * 60 * 60 * 1000);
  await utimes(join(directory, ".tmp", left), old, old);
  await createDiskStorage(directory).put("other", hello, type);
  expect(await readdir(join(directory, ".tmp"))).toEqual([]);
});

test("a disk that refuses is storage-unavailable; the system's words stay in the log", async () => {
  const path = join(await freshDirectory(), "file");
  await writeFile(path, "");
  const storage = createDiskStorage(join(path, "below-a-file"));
  const calls = [() => storage.put("a", hello, type), () => storage.id()];
  for (const call of calls) {
    const problem = await call().catch((error) => error);
    expect(problem).toBeInstanceOf(Problem);
    expect(problem.code).toBe("storage-unavailable");
    expect(problem.cause.code).toBe("ENOTDIR");
    expect(JSON.stringify(problem)).not.toContain("ENOTDIR");
  }
});

test("a store that failed works again when its disk does", async () => {
  const path = join(await freshDirectory(), "files");
  await writeFile(path, "in the way");
  const storage = createDiskStorage(path);
  await expect(storage.put("a", hello, type)).rejects.toMatchObject({ code: "storage-unavailable" });
  await Bun.file(path).delete();
  await storage.put("a", hello, type);
  expect(await read(storage, "a")).toEqual(hello);
});

test("an object that goes away before it is read fails the stream", async () => {
  const storage = createDiskStorage(await freshDirectory());
  await storage.put("fleeting", hello, type);
  const object = await storage.get("fleeting");
  await storage.delete("fleeting");
  await expect(new Response(object?.stream()).text()).rejects.toMatchObject({ code: "storage-unavailable" });
});

/** A file system that is mounted here. */
import { randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Disk } from "./disk.ts";

const isMissing = (error: unknown) => ["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "");

export const localDisk = (signal: AbortSignal): Disk => ({
  async find(path) {
    try {
      const stats = await stat(path);
      return { size: stats.size, isDirectory: stats.isDirectory() };
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  },
  async list(path) {
    try {
      const entries = (await readdir(path, { withFileTypes: true })).filter((entry) => entry.isFile());
      return await Promise.all(entries.map(async ({ name }) => ({ name, size: (await stat(join(path, name))).size })));
    } catch (error) {
      if (isMissing(error)) return [];
      throw error;
    }
  },
  async listDirectories(path) {
    try {
      const entries = await readdir(path, { withFileTypes: true });
      return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
    } catch (error) {
      if (isMissing(error)) return [];
      throw error;
    }
  },
  async makeDirectory(path) {
    await mkdir(path, { recursive: true });
  },
  async write(path, file) {
    const aside = join(dirname(path), `.${randomUUID()}.part`);
    try {
      const target = createWriteStream(aside, { flags: "wx" });
      await pipeline(Readable.fromWeb((await file.stream()) as never), target, { signal });
      if (target.bytesWritten !== file.size) {
        throw new Error(`an input file has ${target.bytesWritten} bytes instead of ${file.size}`);
      }
      await rename(aside, path);
    } catch (error) {
      await rm(aside, { force: true });
      throw error;
    }
  },
  rename,
  async remove(path) {
    await rm(path, { force: true });
  },
});

/** Streams a file. What breaks on the way breaks the stream: half a file never passes for a whole. */
export async function readLocal(path: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  await stat(path);
  return Readable.toWeb(createReadStream(path, { signal })) as unknown as ReadableStream<Uint8Array>;
}

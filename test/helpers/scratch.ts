/** Where PostgreSQL's directories of tests lie. */
import { chmodSync, mkdtempSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * In memory where the machine has a file system for that, with room: a database is 640 files, and ext4 looks for an
 * inode that was not deleted of late each time it makes one, which took a quarter of the suite's time. Benchmarks fill
 * theirs with gigabytes, and use the disk.
 */
export const scratchParent = (() => {
  const memory = "/dev/shm";
  try {
    const { bavail, bsize } = statfsSync(memory);
    if (process.env.NODE_ENV === "test" && bavail * bsize > 4 * 1024 ** 3) return memory;
  } catch {
    // None here.
  }
  return tmpdir();
})();

/** A new directory that whoever runs PostgreSQL can pass: as root that is another user. */
export function makeScratch(prefix: string): string {
  const directory = mkdtempSync(join(scratchParent, prefix));
  chmodSync(directory, 0o711);
  return directory;
}

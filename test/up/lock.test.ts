/** Who may have a DATA_DIR, and what becomes of what a killed holder left. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProcess, ownProcess } from "../../src/db/process-table.ts";
import { takeLock } from "../../src/up/lock.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "atelier-lock-"));
});

afterEach(() => {
  chmodSync(directory, 0o700);
  rmSync(directory, { recursive: true });
});

const lockFile = () => join(directory, "up.json");

function write(holder: unknown): void {
  writeFileSync(lockFile(), JSON.stringify(holder));
}

test("a living holder keeps everybody else out, and leaves nothing behind", async () => {
  const lock = await takeLock(directory);
  await expect(takeLock(directory)).rejects.toThrow(`in use by another \`up\`, process ${process.pid}`);
  lock.release();
  expect(readdirSync(directory)).toEqual([]);
  (await takeLock(directory)).release();
});

test.each([
  { left: "a process that is gone", holder: { pid: 4_000_000, started: "x", children: [] } },
  { left: "a pid that now is somebody else's", holder: { ...ownProcess(), started: "long ago", children: [] } },
  { left: "half a file", holder: "{" },
])("$left holds nothing", async ({ holder }) => {
  write(holder);
  const lock = await takeLock(directory);
  expect(JSON.parse(readFileSync(lockFile(), "utf8")).pid).toBe(process.pid);
  lock.release();
});

test("children of a killed holder are ended, strangers under their pids are not", async () => {
  const [child, stranger] = [Bun.spawn(["sleep", "60"]), Bun.spawn(["sleep", "60"])];
  const started = findProcess(child.pid)?.started;
  write({
    pid: 4_000_000,
    started: "x",
    children: [
      { pid: child.pid, started },
      { pid: stranger.pid, started: "long ago" },
    ],
  });
  const lock = await takeLock(directory);
  expect(findProcess(child.pid)).toBeNull();
  expect(findProcess(stranger.pid)).not.toBeNull();
  stranger.kill();
  lock.release();
});

test("of several who find a dead holder one gets it", async () => {
  write({ pid: 4_000_000, started: "x", children: [] });
  const module = JSON.stringify(join(import.meta.dirname, "../../src/up/lock.ts"));
  const script = `
    const { takeLock } = await import(${module});
    await takeLock(${JSON.stringify(directory)}).then(() => console.log("got"), () => console.log("refused"));
    for await (const _ of Bun.stdin.stream()) {}`;
  const rivals = [1, 2, 3, 4].map(() => Bun.spawn([process.execPath, "-e", script], { stdin: "pipe", stdout: "pipe" }));
  const said = await Promise.all(
    rivals.map(async ({ stdout }) => new TextDecoder().decode((await stdout.getReader().read()).value).trim()),
  );
  for (const rival of rivals) rival.kill("SIGKILL");
  expect(said.sort()).toEqual(["got", "refused", "refused", "refused"]);
});

test("what is no directory is named", async () => {
  const path = join(directory, "file");
  writeFileSync(path, "");
  for (const dataDir of [path, join(path, "below")]) {
    await expect(takeLock(dataDir)).rejects.toThrow(`DATA_DIR ${dataDir} cannot be written: it, or a part`);
  }
});

/** The life of an embedded server: clean stops, killed owners, half-made clusters. One cluster for all of it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../src/db/client.ts";
import { type Embedded, findEmbedded, startEmbedded } from "../../src/db/embedded.ts";
import { endProcess, findProcess, type ProcessId } from "../../src/db/process-table.ts";
import { makeScratch } from "../helpers/scratch.ts";

let directory: string;
let running: Embedded | undefined;

beforeAll(() => {
  directory = makeScratch("atelier-embedded-");
});

afterAll(async () => {
  await running?.stop();
  rmSync(directory, { recursive: true, force: true });
});

const serverOf = () => JSON.parse(readFileSync(join(directory, "database.json"), "utf8")).server as ProcessId;

async function ask(url: string, query: string) {
  const sql = connect(url, { max: 1 });
  return await sql.unsafe(query).finally(() => sql.end());
}

test("an initdb that was killed in the middle is thrown away and done again", async () => {
  mkdirSync(join(directory, "postgres", "new-12345678", "base"), { recursive: true });
  writeFileSync(join(directory, "postgres", "new-12345678", "PG_VERSION"), "18\n");
  running = await startEmbedded({ directory });
  expect(readdirSync(join(directory, "postgres")).sort()).toEqual(["data", "log", "password"]);
  expect(findEmbedded(directory)).toBe(running.url);
  const [row] = await ask(running.url, "select lower('Ä') = 'ä' as folds, to_tsvector('simple', '你好') as words");
  expect({ ...row }).toEqual({ folds: true, words: "'你好':1" });
});

test("a second start on the same directory is refused while the first lives", async () => {
  await expect(startEmbedded({ directory })).rejects.toThrow(`in use by process ${process.pid}`);
});

test("after a stop nothing runs, and the next start finds the data at the same address", async () => {
  const first = running;
  await ask(first?.url ?? "", "create table kept as select 7 as n");
  const server = serverOf();
  await first?.stop();
  expect(findProcess(server.pid)).toBeNull();
  expect(findEmbedded(directory)).toBeNull();
  running = await startEmbedded({ directory });
  expect(running.url).toBe(first?.url ?? "");
  expect(await ask(running.url, "select n from kept")).toHaveLength(1);
});

test("a port that somebody took meanwhile is replaced", async () => {
  const port = Number(new URL(running?.url ?? "").port);
  await running?.stop();
  const squatter = Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } });
  running = await startEmbedded({ directory });
  squatter.stop(true);
  expect(Number(new URL(running.url).port)).not.toBe(port);
  expect(await ask(running.url, "select n from kept")).toHaveLength(1);
});

test("the server ends by itself when its owner is killed", async () => {
  await running?.stop();
  const owner = await startElsewhere();
  const server = serverOf();
  owner.kill("SIGKILL");
  await gone(server);
});

test("a server that outlived its owner and its guard is ended, and the data are there", async () => {
  const owner = await startElsewhere();
  const server = serverOf();
  for (const guard of guardsOf(server.pid)) process.kill(guard, "SIGKILL");
  owner.kill("SIGKILL");
  await owner.exited;
  expect(findProcess(server.pid)).not.toBeNull();
  running = await startEmbedded({ directory });
  expect(findProcess(server.pid)?.started).not.toBe(server.started);
  expect(await ask(running.url, "select n from kept")).toHaveLength(1);
});

test("a server that was killed by force is replaced, though its pid now is somebody else's", async () => {
  const server = serverOf();
  process.kill(server.pid, "SIGKILL");
  await running?.exited;
  const pidFile = join(directory, "postgres", "data", "postmaster.pid");
  expect(existsSync(pidFile)).toBe(true);
  const stranger = Bun.spawn(["sleep", "60"]);
  writeFileSync(pidFile, readFileSync(pidFile, "utf8").replace(/^\d+/, String(stranger.pid)));
  running = await startEmbedded({ directory });
  expect(stranger.exitCode).toBeNull();
  stranger.kill();
  expect(await ask(running.url, "select n from kept")).toHaveLength(1);
});

/** Another process that starts the server and stays. */
async function startElsewhere() {
  const module = JSON.stringify(join(import.meta.dirname, "../../src/db/embedded.ts"));
  const script = `
    const { startEmbedded } = await import(${module});
    await startEmbedded({ directory: ${JSON.stringify(directory)} });
    console.log("up");
    setInterval(() => {}, 1000);`;
  const owner = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
  await owner.stdout.getReader().read();
  return owner;
}

function guardsOf(pid: number): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((other) => other > 0 && findProcess(other)?.command.endsWith(`sh INT ${pid}`));
}

async function gone(id: ProcessId): Promise<void> {
  expect(await endProcess(id, [["SIGCONT", 5_000]])).toBe(true);
}

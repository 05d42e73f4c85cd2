/** Children that live, die, refuse and outlive us. */
import { afterAll, afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProcess } from "../../src/db/process-table.ts";
import { planEngines } from "../../src/up/engines.ts";
import { type Child, supervise } from "../../src/up/supervisor.ts";

const directory = mkdtempSync(join(tmpdir(), "atelier-supervisor-"));
const orphan = JSON.stringify(join(import.meta.dirname, "../../src/up/orphan.ts"));
let child: Child | undefined;

afterEach(async () => {
  await child?.stop(1_000);
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Starts a child of the given program; `lines` and `gaveUp` tell what comes of it. */
function start(program: string) {
  const path = join(directory, "child.ts");
  writeFileSync(path, program);
  const lines: string[] = [];
  let heard = Promise.withResolvers<void>();
  const gaveUp = Promise.withResolvers<string>();
  child = supervise({
    name: "child",
    command: () => [path],
    env: process.env,
    onStdout: (line) => {
      lines.push(line);
      heard.resolve();
      return true;
    },
    onChange: () => {},
    onGiveUp: gaveUp.resolve,
  });
  const next = async (count: number) => {
    while (lines.length < count) {
      await heard.promise;
      heard = Promise.withResolvers();
    }
    return lines;
  };
  return { child, next, gaveUp: gaveUp.promise };
}

test("a child that dies is started again, one that is stopped is not", async () => {
  const { child, next, gaveUp } = start("console.log(process.pid); setInterval(() => {}, 1000);");
  const [first] = await next(1);
  process.kill(Number(first), "SIGKILL");
  const [, second] = await next(2);
  expect(second).not.toBe(first);
  await child.stop(1_000);
  expect(findProcess(Number(second))).toBeNull();
  expect(child.process()).toBeNull();
  expect(await Promise.race([gaveUp, Bun.sleep(300)])).toBeUndefined();
});

test("a child that refuses its settings is not tried again", async () => {
  const { next, gaveUp } = start("console.log('once'); process.exit(1);");
  expect(await gaveUp).toBe("child refused to start");
  expect(await next(1)).toEqual(["once"]);
});

test("a child that does not listen to SIGTERM is ended all the same", async () => {
  const { child, next } = start(
    "process.on('SIGTERM', () => {}); console.log(process.pid); setInterval(() => {}, 1000);",
  );
  const [pid] = await next(1);
  await child.stop(100);
  expect(findProcess(Number(pid))).toBeNull();
});

test("a child learns of our death by kill -9", async () => {
  const grandchild = `
    const { stopWhenOrphaned } = await import(${orphan});
    stopWhenOrphaned(() => process.exit(0));
    console.log(process.pid);
    setInterval(() => {}, 1000);`;
  writeFileSync(join(directory, "grandchild.ts"), grandchild);
  const supervisor = JSON.stringify(join(import.meta.dirname, "../../src/up/supervisor.ts"));
  const { child, next } = start(`
    const { supervise } = await import(${supervisor});
    supervise({ name: "x", command: () => [${JSON.stringify(join(directory, "grandchild.ts"))}], env: process.env,
      onStdout: (line) => (console.log(line), true), onChange() {}, onGiveUp() {} });`);
  const [pid] = await next(1);
  process.kill(child.process()?.pid ?? 0, "SIGKILL");
  for (const deadline = Date.now() + 2_000; findProcess(Number(pid)) && Date.now() < deadline; await Bun.sleep(10)) {}
  expect(findProcess(Number(pid))).toBeNull();
});

test.each([
  { count: 0, types: [] },
  { count: 1, types: ["train"] },
  { count: 2, types: ["train", "infer"] },
  { count: 3, types: ["train", "infer", "infer"] },
])("DEMO_ENGINES=$count means $types", ({ count, types }) => {
  const engines = planEngines(count);
  expect(engines.map((engine): string => engine.type)).toEqual([...types]);
  expect(new Set(engines.map((engine) => engine.name)).size).toBe(count);
});

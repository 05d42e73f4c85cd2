import { expect, test } from "bun:test";
import { resolve } from "node:path";

const boot = resolve(import.meta.dirname, "../../src/boot.ts");

/** A process that bears outages meets an error that nobody catches: its exit code. */
async function meet(error: string): Promise<number> {
  const script = `
    import { pino } from "pino";
    const { bearOutages } = await import(${JSON.stringify(boot)});
    bearOutages(pino({ level: "silent" }));
    Promise.reject(${error});
    setTimeout(() => process.exit(7), 50);
  `;
  const child = Bun.spawn([process.execPath, "-e", script], { stdio: ["ignore", "ignore", "inherit"] });
  return child.exited;
}

test.each([
  { what: "a refused connection", error: `Object.assign(new Error("connect"), { code: "ECONNREFUSED" })` },
  { what: "a terminated connection", error: `new Error("Connection terminated unexpectedly")` },
])("$what that nobody waits for does not end a process", async ({ error }) => {
  expect(await meet(error)).toBe(7);
});

test("a bug that nobody catches does", async () => {
  expect(await meet(`new TypeError("a bug")`)).toBe(1);
});

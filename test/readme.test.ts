/** The README's table of configuration says what the code reads. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { listSettings } from "../src/config.ts";

const root = join(import.meta.dirname, "..");
const readme = readFileSync(join(root, "README.md"), "utf8");

test("every setting stands in the table once, with its default, and nothing else does", () => {
  const rows = [...readme.matchAll(/^\| `([A-Z0-9_]+)` *\| (?:`([^`]*)`)? *\|/gm)];
  expect(rows.map(([, name, value]) => [name, value ?? null])).toEqual(
    listSettings().map(({ name, value }) => [name, value]),
  );
});

test("the README and the package name the same Bun", () => {
  const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const named = new Set(readme.match(/bun@[\d.]*\d/g));
  expect([...named]).toEqual([packageManager]);
});

test("every picture of the README is there", async () => {
  for (const [, path] of readme.matchAll(/!\[[^\]]*\]\(([^)]+)\)/g)) {
    expect(await Bun.file(join(root, path ?? "")).exists()).toBe(true);
  }
});

/** Which ancestors count as the launcher, and when their chain is broken. The process table is made up. */
import { describe, expect, test } from "bun:test";
import type { ProcessFacts } from "../../src/db/process-table.ts";
import { findChain, hasLostLauncher, isWhole } from "../../src/up/launcher.ts";

/** Commands from the top (pid 10, child of init) down to ourselves, the last. */
function table(...commands: string[]) {
  const facts = new Map<number, ProcessFacts>();
  commands.forEach((command, index) => {
    const pid = 10 + index;
    facts.set(pid, { pid, parent: index === 0 ? 1 : pid - 1, started: `s${pid}`, command });
  });
  return { facts, find: (pid: number) => facts.get(pid) ?? null, self: 9 + commands.length };
}

const npx = "npm exec bun@1.4.5 run up";
const wrapper = "sh -c 'bun' run up";
const run = "/home/mei/.npm/_npx/86/node_modules/bun/bin/bun.exe run up";
const script = "sh -c bun install --frozen-lockfile --silent && bun src/up.ts";
const up = "bun src/up.ts";

describe("the launcher's chain", () => {
  test.each([
    { when: "npx in a terminal", above: ["-bash", npx, wrapper, run, up], chain: [13, 12, 11] },
    {
      when: "npx whose scripts run in a shell",
      above: ["-zsh", npx, wrapper, run, script, up],
      chain: [14, 13, 12, 11],
    },
    { when: "npx where the shell replaced itself", above: ["-bash", npx, run, up], chain: [12, 11] },
    { when: "bun run in a terminal", above: ["-bash", run, up], chain: [11] },
    { when: "bun run by a given command", above: ["bash -c bun run up", run, up], chain: [11] },
    {
      when: "npx in a script of npm's",
      above: ["npm run dev", "bash ./dev.sh", npx, wrapper, run, up],
      chain: [14, 13, 12],
    },
    {
      when: "npx below another npm's shell",
      above: ["npm test", "sh -c nohup npx up &", npx, run, up],
      chain: [13, 12],
    },
    { when: "bun alone", above: ["-bash", up], chain: [] },
    { when: "a service manager", above: ["/usr/lib/systemd/systemd --user", up], chain: [] },
    {
      when: "npx as a container's first process",
      above: ["node /usr/bin/npx --yes bun run up", run, up],
      chain: [11, 10],
    },
  ])("$when", ({ above, chain }) => {
    const { find, self } = table(...above);
    expect(findChain(self, find).map((link) => link.pid)).toEqual([...chain]);
  });
});

describe("it breaks", () => {
  test.each([
    {
      when: "npm ends and its shell is given to init",
      change: (t: ReturnType<typeof table>) => drop(t, 11),
      isWhole: false,
    },
    { when: "the shell in the middle ends", change: (t: ReturnType<typeof table>) => drop(t, 12), isWhole: false },
    { when: "our parent ends", change: (t: ReturnType<typeof table>) => drop(t, 13), isWhole: false },
    {
      when: "npm's pid is somebody else's now",
      change: (t: ReturnType<typeof table>) => t.facts.set(11, { pid: 11, parent: 1, started: "later", command: npx }),
      isWhole: false,
    },
    { when: "but not when the user's shell ends", change: (t: ReturnType<typeof table>) => drop(t, 10), isWhole: true },
    { when: "nor when nothing happens", change: () => {}, isWhole: true },
  ])("$when", (given) => {
    const processes = table("-bash", npx, wrapper, run, up);
    const chain = findChain(processes.self, processes.find);
    given.change(processes);
    expect(isWhole(processes.self, chain, processes.find)).toBe(given.isWhole);
  });
});

describe("a launcher that was gone before we looked", () => {
  const ofNpm = { npm_execpath: "/usr/lib/node_modules/npm/bin/npm-cli.js" };
  test.each([
    { when: "is npm above a shell and bun", env: ofNpm, above: [wrapper, run, up], isLost: true },
    { when: "is npm above bun", env: ofNpm, above: [run, up], isLost: true },
    { when: "is not npm that is there", env: ofNpm, above: [npx, wrapper, run, up], isLost: false },
    {
      when: "is not npm further up, above a user's shell",
      env: ofNpm,
      above: [npx, "bash ./dev.sh", run, up],
      isLost: false,
    },
    { when: "is none where npm had no part", env: { npm_execpath: run }, above: [run, up], isLost: false },
  ])("$when", ({ env, above, isLost }) => {
    const { find, self } = table(...above);
    expect(hasLostLauncher(self, env, find)).toBe(isLost);
  });
});

function drop({ facts }: ReturnType<typeof table>, pid: number): void {
  facts.delete(pid);
  for (const [other, one] of facts) {
    if (one.parent === pid) facts.set(other, { ...one, parent: 1 });
  }
}

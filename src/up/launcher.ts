/**
 * The death of whoever launched us. `npx bun run up` makes a chain npm -> sh -> bun -> up, and a SIGTERM to its top
 * ends npm alone: nothing reaches us, our parent even lives on. So the chain is written down and looked at.
 */
import { findProcess, type ProcessFacts, type ProcessId } from "../db/process-table.ts";

/** From our parent upwards; empty when nobody launched us but a shell or a service manager. */
export type Chain = ProcessId[];

type Find = (pid: number) => ProcessFacts | null;

/**
 * The launchers above `pid`: `bun run`, and the npm or npx above that, with the `sh -c` between them. It ends at the
 * first npm, and never takes in a shell at the top: that one is the user's, and `nohup npx … &` outlives it.
 */
export function findChain(pid: number, find: Find = findProcess): Chain {
  const chain: ProcessFacts[] = [];
  let length = 0;
  for (let above = find(find(pid)?.parent ?? 0); above; above = find(above.parent)) {
    const kind = kindOf(above.command);
    if (kind === "other") break;
    chain.push(above);
    if (kind !== "shell") length = chain.length;
    if (kind === "npm") break;
  }
  return chain.slice(0, length).map(({ pid, started }) => ({ pid, started }));
}

function kindOf(command: string): "npm" | "bun" | "shell" | "other" {
  // npm writes its own title over the command line: `npm exec bun@1.4.5 run up`.
  if (/^(\S*\/)?(npm|npx|pnpm|yarn)( |$)/.test(command)) return "npm";
  if (/^(\S*\/)?node(\.exe)? .*?\b(npm|npx)(-cli\.js)?( |$)/.test(command)) return "npm";
  if (/^(\S*\/)?(node \S*\/)?bunx?(\.exe)?( |$)/.test(command)) return "bun";
  // Of shells only those that run one given command: a script or a terminal is the user's.
  if (/^(\S*\/)?(sh|bash|dash|ash|zsh) (-\w+ )*-\w*c /.test(command)) return "shell";
  return "other";
}

/** Whether every link still lives and still is the child of the next one. */
export function isWhole(pid: number, chain: Chain, find: Find = findProcess): boolean {
  let below = find(pid);
  for (const link of chain) {
    const now = find(link.pid);
    if (!now || now.started !== link.started || below?.parent !== link.pid) return false;
    below = now;
  }
  return true;
}

/**
 * Calls back once when the chain breaks. A chain that had lost its top before we looked (npx ended while packages
 * were being installed) shows by npm's mark in the environment, and init as the parent of what is left.
 *
 * @returns a function that ends the watch
 */
export function watchLauncher(callback: () => void, env = process.env): () => void {
  const chain = findChain(process.pid);
  const top = chain.at(-1)?.pid ?? process.pid;
  const hadNpm = /npm-cli\.js$/.test(env.npm_execpath ?? "");
  if (hadNpm && findProcess(top)?.parent === 1 && kindOf(findProcess(top)?.command ?? "") !== "npm") {
    queueMicrotask(callback);
    return () => {};
  }
  const timer = setInterval(() => {
    if (isWhole(process.pid, chain)) return;
    clearInterval(timer);
    callback();
  }, 300);
  timer.unref();
  return () => clearInterval(timer);
}

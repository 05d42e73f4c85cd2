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
 * Whether npm launched us and had gone before we could write it down, while packages were being installed say: its
 * mark is in the environment, it is nowhere above us, and what it started has been given to init.
 */
export function hasLostLauncher(
  pid: number,
  env: Record<string, string | undefined>,
  find: Find = findProcess,
): boolean {
  if (!/npm-cli\.js$/.test(env.npm_execpath ?? "")) return false;
  let top = find(pid);
  for (let above = top; above && kindOf(above.command) !== "other"; above = find(above.parent)) {
    if (kindOf(above.command) === "npm") return false;
    top = above;
  }
  return top?.parent === 1;
}

/**
 * Calls back once when the launcher has gone.
 *
 * @returns a function that ends the watch
 */
export function watchLauncher(callback: () => void): () => void {
  const chain = findChain(process.pid);
  const isLost = hasLostLauncher(process.pid, process.env);
  const timer = setInterval(() => {
    if (!isLost && isWhole(process.pid, chain)) return;
    clearInterval(timer);
    callback();
  }, 300);
  timer.unref();
  return () => clearInterval(timer);
}

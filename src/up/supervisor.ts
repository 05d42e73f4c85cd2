/** Children: started, restarted with growing pauses, ended. What they print goes to our stderr. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { endProcess, findProcess, type ProcessId } from "../db/process-table.ts";

export interface ChildOptions {
  /** For people: `api`, `worker`, `demo-train`. */
  name: string;
  /** The arguments of our own Bun; asked again before each start. */
  command: () => string[];
  env: Record<string, string | undefined>;
  /** Each line on stdout; true keeps it from being passed on. */
  onStdout?: (line: string) => boolean;
  /** The set of living processes has changed. */
  onChange: () => void;
  /** It cannot be kept alive; called once, with a line that says so. */
  onGiveUp: (line: string) => void;
}

export interface Child {
  /** Null between two lives. */
  process(): ProcessId | null;
  /** SIGTERM, and after `limitMs` SIGKILL; no restart any more. May run twice. */
  stop(limitMs: number): Promise<void>;
  /** SIGKILL, without waiting. */
  kill(): void;
}

/** A life shorter than this counts as a failed start; so many in a row are enough. */
const shortLifeMs = 10_000;
const failedStartsLimit = 5;

/**
 * Starts a child and keeps it alive. Its standard input is a pipe whose end tells it that we are gone (`orphan.ts`);
 * it runs in a session of its own, because a Ctrl-C in the terminal is for us, who then stop things in order.
 *
 * A first start that ends with exit code 1 is not repeated: that is how our programs refuse their settings.
 */
export function supervise(options: ChildOptions): Child {
  const { name } = options;
  let running: { child: ChildProcess; id: ProcessId } | null = null;
  let failedStarts = 0;
  let isFirst = true;
  let isStopped = false;
  let restart: ReturnType<typeof setTimeout> | undefined;

  const retire = () => {
    isStopped = true;
    clearTimeout(restart);
  };

  const start = () => {
    const startedAt = Date.now();
    const child = spawn(process.execPath, options.command(), {
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
      env: { ...options.env, ATELIER_SUPERVISED: "1" },
    });
    const pid = child.pid ?? 0;
    running = { child, id: { pid, started: findProcess(pid)?.started ?? "" } };
    child.stdin.on("error", () => {});
    passOn(child, options);
    const onEnd = (how: string) => {
      if (running?.child !== child) return;
      running = null;
      if (isStopped) return;
      options.onChange();
      failedStarts = Date.now() - startedAt < shortLifeMs ? failedStarts + 1 : 0;
      const isRefusal = isFirst && failedStarts > 0 && how === "exit code 1";
      isFirst = false;
      if (isRefusal) return options.onGiveUp(`${name} refused to start`);
      if (failedStarts >= failedStartsLimit) {
        return options.onGiveUp(`${name} ended ${failedStarts} times within seconds of its start (${how})`);
      }
      const pauseMs = 250 * 2 ** Math.max(0, failedStarts - 1);
      process.stderr.write(`[up] ${name} ended (${how}); starting it again in ${pauseMs} ms\n`);
      restart = setTimeout(start, pauseMs);
    };
    child.once("error", (error) => onEnd(error.message));
    // Its last words come by the pipes, a moment later; a grandchild may hold those open for longer.
    const isClosed = new Promise((closed) => child.once("close", closed));
    child.once("exit", async (code, signal) => {
      await Promise.race([isClosed, Bun.sleep(200)]);
      onEnd(signal ?? `exit code ${code}`);
    });
    options.onChange();
  };
  start();

  return {
    process: () => running?.id ?? null,
    async stop(limitMs) {
      retire();
      if (!running) return;
      await endProcess(running.id, [
        ["SIGTERM", limitMs],
        ["SIGKILL", 1_000],
      ]);
      running = null; // its own end may be told a moment later
    },
    kill() {
      retire();
      running?.child.kill("SIGKILL");
    },
  };
}

/** Log lines in JSON stay as they are, for programs to read; others get the child's name before them. */
function passOn(child: ChildProcess, { name, onStdout }: ChildOptions): void {
  const write = (line: string) => process.stderr.write(line.startsWith("{") ? `${line}\n` : `[${name}] ${line}\n`);
  if (child.stderr) createInterface({ input: child.stderr }).on("line", write);
  if (child.stdout) {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (!onStdout?.(line)) write(line);
    });
  }
}

/** The server's process: starting it, ending it, and what an earlier one left behind. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { DatabaseError } from "./client.ts";
import { serverArguments } from "./cluster.ts";
import { endProcess, findProcess, listProcessesIn, type ProcessId, type Step } from "./process-table.ts";
import { plainEnvironment, type RunAs } from "./system-user.ts";

/** Fast (roll back, checkpoint), then immediate (recover at the next start), then by force. */
const shutdown: readonly Step[] = [
  ["SIGINT", 6_000],
  ["SIGQUIT", 2_000],
  ["SIGKILL", 1_000],
];

/** Recovery after a crash reads the log again, which may take its time; a start that hangs must end all the same. */
const readyTimeoutMs = 120_000;

export interface Postmaster extends ProcessId {
  /** Settles when the process is gone, wanted or not. */
  exited: Promise<void>;
  stop(): Promise<void>;
  /** Ends it at once, without waiting; the next start will have to recover. */
  kill(): void;
}

export type StartFailure = "port-taken" | "memory-in-use" | { message: string };

/**
 * Ends the server that a killed owner left running on `data`, and returns the pid in its pid file, which now belongs
 * to nobody or to a stranger. A process counts as the server of `data` only if it works in that directory or names it.
 */
export async function endOrphan(data: string): Promise<number | null> {
  const pid = readPidFile(data)?.pid ?? null;
  const found = pid === null ? null : findProcess(pid);
  if (found && (found.command.includes(`-D ${data} `) || listProcessesIn(data).some((one) => one.pid === pid))) {
    if (!(await endProcess(found, shutdown))) {
      throw new DatabaseError(`PostgreSQL (process ${pid}) from an earlier run in ${data} cannot be ended`);
    }
  }
  // A server killed by force leaves backends that finish their query first and hold the shared memory until then.
  for (const backend of listProcessesIn(data)) await endProcess(backend, [["SIGQUIT", 1_000]]);
  return pid;
}

/** Starts the server and waits until it accepts connections. */
export async function startPostmaster(options: {
  place: string;
  port: number;
  user: RunAs;
  binaries: Binaries;
  /** Directories to delete if we go without stopping the server. */
  throwaway: string[];
  stalePid: number | null;
}): Promise<Postmaster | StartFailure> {
  const { place, port, user, binaries, throwaway, stalePid } = options;
  const data = join(place, "data");
  const logPath = join(place, "log");
  const log = openSync(logPath, "w", 0o600);
  const child = spawn(binaries.postgres, serverArguments(data, port, throwaway.length > 0), {
    ...user,
    cwd: "/",
    // A session of its own: a Ctrl-C in the terminal is for us, and we decide when the database goes.
    detached: true,
    stdio: ["ignore", log, log],
    env: {
      ...plainEnvironment(),
      // PostgreSQL takes a lock file of its own grandparent's pid for a stale one, because a container that starts
      // anew gives the same pids. We have looked at who has that pid, and say so by the same means.
      ...(stalePid ? { PG_GRANDPARENT_PID: String(stalePid) } : {}),
    },
  });
  closeSync(log);
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const id = { pid: child.pid ?? 0, started: findProcess(child.pid ?? 0)?.started ?? "" };
  const guard = spawnGuard(id.pid, throwaway);
  child.unref();
  void exited.then(() => guard.kill("SIGKILL"));
  const isReady = await waitUntilReady(child, data);
  if (isReady !== true) {
    child.kill("SIGKILL");
    await exited;
    return explain(logPath, isReady);
  }
  return {
    ...id,
    exited,
    kill: () => void child.kill("SIGQUIT"),
    async stop() {
      await endProcess(id, shutdown);
      guard.kill("SIGKILL");
    },
  };
}

/** PostgreSQL writes `ready` into its pid file; looking there costs nothing, a connection would cost a backend. */
async function waitUntilReady(child: ChildProcess, data: string): Promise<true | string> {
  let failure = "";
  child.once("error", (error) => {
    failure = error.message;
  });
  for (const deadline = Date.now() + readyTimeoutMs; Date.now() < deadline; await Bun.sleep(5)) {
    if (failure || child.exitCode !== null || child.signalCode !== null) return failure || "it ended at once";
    const file = readPidFile(data);
    if (file?.pid === child.pid && file?.status === "ready") return true;
  }
  return `it was not ready after ${readyTimeoutMs / 1000} s`;
}

function readPidFile(data: string): { pid: number; status: string } | null {
  try {
    const lines = readFileSync(join(data, "postmaster.pid"), "utf8").split("\n");
    const pid = Math.abs(Number(lines[0])); // negative for a single-user server
    return pid > 0 ? { pid, status: lines[7]?.trim() ?? "" } : null;
  } catch {
    return null;
  }
}

function explain(logPath: string, otherwise: string): StartFailure {
  const log = readFileSync(logPath, "utf8");
  if (log.includes("pre-existing shared memory block")) return "memory-in-use";
  if (/could not bind .*: Address already in use/.test(log)) return "port-taken";
  const reason = /(?:FATAL|PANIC|ERROR):\s+(.*)/.exec(log)?.[1] ?? (log.trim().split("\n").at(-1) || otherwise);
  return { message: `PostgreSQL did not start: ${reason} (its log: ${logPath})` };
}

/**
 * A shell that waits for the end of its input, which comes when we are gone, however we went, and then ends the
 * server and deletes what was to be thrown away. It is told to go itself as soon as the server has.
 */
function spawnGuard(pid: number, throwaway: string[]): ChildProcess {
  const script = `
    while read -r line; do :; done
    signal=$1 pid=$2
    shift 2
    kill -s "$signal" "$pid" 2>/dev/null
    [ $# -gt 0 ] || exit 0
    tries=0
    until sleep 0.1; rm -rf -- "$@" 2>/dev/null || [ $tries -ge 50 ]; do tries=$((tries + 1)); done`;
  const signal = throwaway.length > 0 ? "QUIT" : "INT";
  const guard = spawn("/bin/sh", ["-c", script, "sh", signal, String(pid), ...throwaway], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  guard.on("error", () => {}); // without a shell we do without: the next start finds the orphan
  guard.stdin?.on("error", () => {});
  guard.unref();
  return guard;
}

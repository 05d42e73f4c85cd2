/**
 * What the operating system says of a process. A pid alone names nobody for long: it is given away again after its
 * owner's death, so whatever we write down about a process carries its start as well.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";

/** Enough to recognise a process later. */
export interface ProcessId {
  pid: number;
  /** Opaque: only equality means anything. Differs after a reboot. */
  started: string;
}

export interface ProcessFacts extends ProcessId {
  parent: number;
  /** The command line, arguments separated by spaces. */
  command: string;
}

const hasProc = existsSync("/proc/self/stat");
const bootId = hasProc && existsSync("/proc/sys/kernel/random/boot_id") ? readBootId() : "";

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").slice(0, 8);
}

/** The living process `pid`, or null. A zombie counts as dead: it holds nothing, and some containers never reap. */
export function findProcess(pid: number): ProcessFacts | null {
  if (!Number.isSafeInteger(pid) || pid <= 0) return null;
  return hasProc ? readProc(pid) : askPs(pid);
}

/** This process, in the form to write down. */
export function ownProcess(): ProcessId {
  return { pid: process.pid, started: findProcess(process.pid)?.started ?? "" };
}

/** Whether the process that was written down still lives; a newcomer under its pid does not count. */
export function isAlive(id: ProcessId): boolean {
  return findProcess(id.pid)?.started === id.started;
}

/** The processes whose working directory is `directory`, a real path. Always empty where there is no /proc. */
export function listProcessesIn(directory: string): ProcessFacts[] {
  if (!hasProc) return [];
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      if (readlinkSync(`/proc/${name}/cwd`) !== directory) return [];
    } catch {
      return []; // gone, or another user's
    }
    return findProcess(Number(name)) ?? [];
  });
}

/** A signal and how long to wait for the end it should bring. */
export type Step = readonly [signal: NodeJS.Signals, waitMs: number];

/** Sends each signal in turn until the process is gone. Answers whether it is; may run twice. */
export async function endProcess(id: ProcessId, steps: readonly Step[]): Promise<boolean> {
  for (const [signal, waitMs] of steps) {
    if (!isAlive(id)) return true;
    try {
      process.kill(id.pid, signal);
    } catch {
      // It went in between, or it is not ours to signal; the wait below tells which.
    }
    for (const deadline = Date.now() + waitMs; Date.now() < deadline; await Bun.sleep(10)) {
      if (!isAlive(id)) return true;
    }
  }
  return !isAlive(id);
}

function readProc(pid: number): ProcessFacts | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const [state, parent] = fields;
    const ticks = fields[19];
    if (!ticks || state === "Z" || state === "X") return null;
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
    return { pid, parent: Number(parent), started: `${bootId}:${ticks}`, command };
  } catch {
    return null;
  }
}

function askPs(pid: number): ProcessFacts | null {
  const columns = ["ppid=", "stat=", "lstart=", "command="].flatMap((column) => ["-o", column]);
  const { stdout } = spawnSync("ps", [...columns, "-p", String(pid)], { env: { ...process.env, LC_ALL: "C" } });
  // `lstart` is five words: Mon Nov 22 10:50:00 2027.
  const match = /^\s*(\d+)\s+(\S+)\s+(\S+\s+\S+\s+\S+\s+\S+\s+\S+)\s+(.*)$/.exec(
    stdout?.toString().split("\n")[0] ?? "",
  );
  if (!match || match[2]?.startsWith("Z")) return null;
  return { pid, parent: Number(match[1]), started: match[3] ?? "", command: match[4] ?? "" };
}

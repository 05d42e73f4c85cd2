/** OpenSSH's server on a free port of the loopback, for the user who runs the tests, with keys of its own. */

import { execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeKeyPair } from "./ssh-keys.ts";
import { startInProcess } from "./ssh-server.ts";

export interface Sshd {
  host: string;
  port: number;
  username: string;
  /** Of the only log-in that is let in. */
  privateKey: string;
  hostKey: string;
  /** Breaks off every connection and comes back on the same port, with the same host key or another. */
  restart(keys?: "same" | "other"): Promise<void>;
  /** Breaks off every connection; nothing answers any more. */
  stop(): Promise<void>;
}

const programs = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
const program = process.env.ATELIER_TEST_SSHD === "none" ? undefined : programs.find(existsSync);

/** OpenSSH's server, or where it is not installed a stand-in within this process. */
export function startSshd(): Promise<Sshd> {
  if (program) return startOpenssh(program);
  process.stderr.write("OpenSSH's server is not installed: a stand-in serves for these tests\n");
  return startStandIn();
}

async function startStandIn(): Promise<Sshd> {
  const user = makeKeyPair();
  let host = makeKeyPair();
  const admission = { username: "painter", publicKey: user.public };
  let running = await startInProcess(host.private, admission);
  const { port } = running;
  return {
    ...{ host: "127.0.0.1", port, username: admission.username, privateKey: user.private },
    get hostKey() {
      return host.public.split(" ").slice(0, 2).join(" ");
    },
    async restart(keys = "same") {
      await running.stop();
      if (keys === "other") host = makeKeyPair();
      running = await startInProcess(host.private, admission, port);
    },
    stop: () => running.stop(),
  };
}

async function startOpenssh(program: string): Promise<Sshd> {
  const directory = mkdtempSync(join(tmpdir(), "atelier-sshd-"));
  const user = makeKeyPair();
  let host = makeKeyPair();
  const port = await freePort();
  const file = (name: string, text: string) => {
    const path = join(directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    chmodSync(path, 0o600);
    return path;
  };
  // As root it wants the directory that its package makes at the system's start.
  if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true });
  let running: ReturnType<typeof spawn> | null = null;

  async function start(): Promise<void> {
    const config = file(
      "config",
      [
        `ListenAddress 127.0.0.1:${port}`,
        `HostKey ${file("host", host.private)}`,
        `AuthorizedKeysFile ${file("user.pub", `${user.public}\n`)}`,
        "PidFile none",
        // Not what somebody keeps in their own home for their shell.
        `SetEnv HOME=${directory}`,
        "UsePAM no",
        "StrictModes no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxStartups 100",
        "MaxSessions 100",
        "Subsystem sftp internal-sftp",
      ].join("\n"),
    );
    const child = spawn(program, ["-D", "-e", "-f", config], { stdio: "ignore" });
    running = child;
    await untilListening(port, () => child.exitCode);
  }

  async function end(): Promise<void> {
    const child = running;
    running = null;
    if (!child || child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    // Each connection is a process, or two, in a session of its own.
    const connections = descendants(child.pid as number);
    child.kill("SIGKILL");
    for (const pid of connections) killIfThere(pid);
    await ended;
  }

  await start();
  return {
    host: "127.0.0.1",
    port,
    // Bun asks the environment, which CI may leave empty.
    username: execFileSync("id", ["-un"], { encoding: "utf8" }).trim(),
    privateKey: user.private,
    get hostKey() {
      return host.public.split(" ").slice(0, 2).join(" ");
    },
    async restart(keys = "same") {
      await end();
      if (keys === "other") host = makeKeyPair();
      await start();
    },
    async stop() {
      await end();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The processes that one has started, and those that they have; what was left to the system's first is not among them. */
function descendants(parent: number): number[] {
  const children = new Map<number, number[]>();
  for (const id of readdirSync("/proc")) {
    if (!/^\d+$/.test(id)) continue;
    const stat = existsSync(`/proc/${id}/stat`) ? readFileSync(`/proc/${id}/stat`, "utf8") : "";
    const ppid = Number(stat.split(") ").at(-1)?.split(" ")[1]);
    children.set(ppid, [...(children.get(ppid) ?? []), Number(id)]);
  }
  const below = (pid: number): number[] => (children.get(pid) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(parent);
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Below those that the system gives to outgoing connections: it must still be free after a restart. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

async function untilListening(port: number, exitCode: () => number | null): Promise<void> {
  for (;;) {
    if (exitCode() !== null) throw new Error(`sshd ended at once (${exitCode()})`);
    const isThere = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("data", () => socket.destroy());
    });
    if (isThere) return;
    await Bun.sleep(10);
  }
}

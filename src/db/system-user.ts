/** As whom PostgreSQL runs. It refuses root, so root has to lend it another user. */
import { spawn, spawnSync } from "node:child_process";
import { chownSync } from "node:fs";
import { DatabaseError } from "./client.ts";

/** Null means: as we are. */
export type RunAs = { uid: number; gid: number } | null;

const ownName = "atelier";

/** Null unless we are root. Makes the system user `atelier` where there is no `postgres`; may run twice. */
export function findDatabaseUser(): RunAs {
  if (process.getuid?.() !== 0) return null;
  const user = lookUp("postgres") ?? lookUp(ownName) ?? makeUser();
  if (!user) {
    throw new DatabaseError(
      "PostgreSQL does not run as root, and no other user could be made: add a system user named postgres, run this as another user, or set DATABASE_URL",
    );
  }
  return user;
}

/** Runs a program to its end as that user, with nothing of our environment, in `/`, which everybody can enter. */
export function runAs(user: RunAs, command: string, args: string[]): Promise<{ isOk: boolean; error: string }> {
  return new Promise((resolve) => {
    const stdio = ["ignore", "ignore", "pipe"] as const;
    const child = spawn(command, args, { ...user, cwd: "/", env: plainEnvironment(), stdio: [...stdio] });
    let stderr = "";
    child.stderr?.on("data", (chunk) => {
      stderr += chunk;
    });
    child.once("error", (error) => resolve({ isOk: false, error: error.message }));
    child.once("close", (code, signal) => {
      // Programs put what went wrong last, and initdb after it only what it removed.
      const lines = stderr.trim().split("\n");
      const error = lines.find((line) => line.includes("error:")) ?? lines.at(-1);
      resolve({ isOk: code === 0, error: error || `it ended with ${signal ?? code}` });
    });
  });
}

/** PGPORT, LANG and the like of the caller's shell must not reach the server; messages are parsed, so in English. */
export function plainEnvironment(): Record<string, string> {
  return { PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };
}

export function giveTo(user: RunAs, path: string): void {
  if (user) chownSync(path, user.uid, user.gid);
}

function lookUp(name: string): RunAs {
  const [uid, gid] = ["-u", "-g"].map((flag) => spawnSync("id", [flag, name]).stdout?.toString().trim());
  return uid && gid ? { uid: Number(uid), gid: Number(gid) } : null;
}

/** `useradd` is everywhere but on Alpine, whose busybox has an `adduser` of its own. */
function makeUser(): RunAs {
  const useradd = [
    "--system",
    "--user-group",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/bin/false",
  ];
  spawnSync("useradd", [...useradd, ownName]);
  if (!lookUp(ownName)) spawnSync("adduser", ["-S", "-D", "-H", "-h", "/nonexistent", "-s", "/bin/false", ownName]);
  return lookUp(ownName);
}

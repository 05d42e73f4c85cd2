/** A host with sd-scripts: OpenSSH's server on the loopback, and a stand-in for what it would start. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { EngineTarget } from "../../../src/drivers/driver.ts";
import { quote } from "../../../src/drivers/ssh/quote.ts";
import { checkpoint } from "../../drivers/jobs.ts";
import { eventually } from "../socket.ts";
import type { Sshd } from "../sshd.ts";

export type KohyaHost = ReturnType<typeof makeKohyaHost>;

/** A directory of its own, on a server that may have several: it is the `shared_dir` of each. */
export function makeKohyaHost(sshd: Sshd) {
  // What a shell would stumble over, did anything go unquoted.
  const base = join(mkdtempSync(join(tmpdir(), "atelier-kohya-")), "it's $HOME; `id` \\dir");
  for (const folder of ["checkpoints", "sd-scripts/venv/bin"]) mkdirSync(join(base, folder), { recursive: true });
  for (const script of ["train_network", "train_db", "train_textual_inversion"]) {
    writeFileSync(join(base, "sd-scripts", `${script}.py`), "");
  }
  writeFileSync(join(base, "checkpoints", checkpoint), "weights");
  const accelerate = [
    "#!/bin/sh",
    `echo "$PWD" >> ${quote(join(base, "submissions"))}`,
    `exec ${quote(process.execPath)} ${quote(resolve(import.meta.dirname, "accelerate.ts"))} "$@"`,
  ];
  writeFileSync(join(base, "sd-scripts/venv/bin/accelerate"), `${accelerate.join("\n")}\n`, { mode: 0o755 });
  const { host, port, username, privateKey, hostKey } = sshd;
  const target: EngineTarget = { host, port, tls: false, username, privateKey, hostKey, sharedDir: base };
  const read = (path: string) => (existsSync(join(base, path)) ? readFileSync(join(base, path), "utf8") : "");

  return {
    base,
    target,
    /** A file of a run's folder. */
    read: (runId: string, path: string) => read(join("runs", runId, path)),
    list: (runId: string, path = "") => {
      const folder = join(base, "runs", runId, path);
      return existsSync(folder) ? readdirSync(folder).sort() : [];
    },
    hold: () => writeFileSync(join(base, "hold"), ""),
    release: () => rmSync(join(base, "hold"), { force: true }),
    /** `oom 3`: what goes wrong, and from which step on. */
    setFault: (fault: string) => writeFileSync(join(base, "fault"), fault),
    /** Resolves when the run has done at least `steps`. */
    running: (runId: string, steps = 2) =>
      eventually(
        async () => Number(read(join("at-work", runId)) || 0),
        (step) => step >= steps,
      ),
    /** How often accelerate was started for the run. */
    async submissions(runId: string): Promise<number> {
      const count = () => read("submissions").split(runId).length - 1;
      // Launched, but not yet so far.
      if (existsSync(join(base, "runs", runId, "pid")))
        await eventually(
          async () => count(),
          (found) => found > 0,
        );
      return count();
    },
    /** The process group's leader of a run. */
    pid: (runId: string) => Number(read(join("runs", runId, "pid")).split(" ")[0]),
    /** The ids of the processes of a group that still live; the dead may wait long for somebody to bury them. */
    processes(group: number): number[] {
      return readdirSync("/proc").flatMap((id) => {
        if (!/^\d+$/.test(id)) return [];
        try {
          const [state, , pgrp] = (readFileSync(`/proc/${id}/stat`, "utf8").split(") ").at(-1) ?? "").split(" ");
          return Number(pgrp) === group && state !== "Z" ? [Number(id)] : [];
        } catch {
          return [];
        }
      });
    },
    async stop() {
      rmSync(join(base, "hold"), { force: true });
      for (const runId of existsSync(join(base, "runs")) ? readdirSync(join(base, "runs")) : []) {
        if (existsSync(join(base, "runs", runId, "exit_code"))) continue;
        const pid = Number(read(join("runs", runId, "pid")).split(" ")[0]);
        try {
          if (pid > 1) process.kill(-pid, "SIGKILL");
        } catch {
          // Gone already.
        }
      }
      rmSync(join(base, ".."), { recursive: true, force: true });
    },
  };
}

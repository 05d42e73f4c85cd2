/** The driver for kohya-ss/sd-scripts: training of LoRA, checkpoints and textual inversions, over SSH. */
import { type Driver, EngineError } from "../driver.ts";
import { withSsh } from "../ssh/connection.ts";
import { readRemote } from "../ssh/files.ts";
import { parseHandle, prepareHandle } from "./handle.ts";
import { runFolder, runScript } from "./host.ts";
import { listModels, probe } from "./probe.ts";
import { cancelScript } from "./scripts.ts";
import { startRun } from "./start.ts";
import { defaultPace, type WatchPace, watchRun } from "./watch.ts";

export interface KohyaOptions {
  pace?: Partial<WatchPace>;
}

export function createKohyaDriver(options: KohyaOptions = {}): Driver {
  const pace = { ...defaultPace, ...options.pace };
  return {
    engine: "kohya",
    ownsSharedDir: true,
    probe,
    listModels,
    prepare: prepareHandle,
    start: async (target, handle, job, signal) => {
      if (job.kind !== "train") throw new EngineError("bad-input", "This engine makes no pictures, it only trains");
      await startRun(target, parseHandle(handle), job, signal);
    },
    watch: (target, handle, signal) => watchRun(target, parseHandle(handle), signal, pace),
    fetch: async (target, { locator }, signal) => {
      const { runId = "", path = "" } = locator;
      if (!/^[0-9a-f-]{36}$/.test(runId) || !/^(sample\/)?\w[\w.-]*$/.test(path)) {
        throw new TypeError("not an artifact of this driver");
      }
      return readRemote(target, `${runFolder(target, runId)}/out/${path}`, signal);
    },
    cancel: (target, handle, signal) =>
      withSsh(target, signal, "pinned", async (ssh) => {
        await runScript(ssh, cancelScript, { run: runFolder(target, parseHandle(handle).runId) }, signal);
      }),
  };
}

export const kohya = createKohyaDriver();

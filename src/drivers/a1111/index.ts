/**
 * The driver for AUTOMATIC1111's web UI and its relatives Forge and SD.Next. They answer only when the work is done, so
 * a run's result belongs to the process that asked for it: another one can follow the run, but never fetch its picture.
 */
import { type Driver, EngineError, type EngineTarget } from "../driver.ts";
import { openHostFiles } from "../host-files/index.ts";
import { HttpClient } from "../http.ts";
import { cancelRun } from "./cancel.ts";
import { defaultPace, type Engine, type Pace } from "./engine.ts";
import { parseHandle, prepareHandle } from "./handle.ts";
import { listModels, modelFolders } from "./models.ts";
import { probe } from "./probe.ts";
import { OwnRuns } from "./runs.ts";
import { startRun } from "./start.ts";
import { watchRun } from "./watch.ts";

export interface A1111Options {
  /** Limit of one small request; making pictures is bounded by the caller's signal alone. */
  requestTimeoutMs?: number;
  pace?: Partial<Pace>;
}

export function createA1111Driver(options: A1111Options = {}): Driver {
  const runs = new OwnRuns();
  const pace = { ...defaultPace, ...options.pace };
  const connect = (target: EngineTarget): Engine => ({
    place: `${target.host}:${target.port}`,
    client: new HttpClient(target, options.requestTimeoutMs ?? 15_000),
    files: openHostFiles(target, modelFolders),
    runs,
    pace,
  });
  return {
    engine: "a1111",
    hostFiles: (target) => openHostFiles(target, modelFolders),
    probe: (target, signal) => probe(connect(target), signal),
    listModels: (target, signal) => listModels(connect(target).client, signal),
    prepare: prepareHandle,
    start: (target, handle, job, signal) => startRun(connect(target), parseHandle(handle), job, signal),
    watch: (target, handle, signal) => watchRun(connect(target), parseHandle(handle), signal),
    async fetch(target, artifact, signal) {
      const { data, path } = artifact.locator;
      if (data) return new Blob([Buffer.from(data, "base64")]).stream();
      const { files } = connect(target);
      if (!files || !path) throw new EngineError("engine-failed", "The engine no longer has the result");
      return files.read(path, signal);
    },
    cancel: (target, handle, signal) => cancelRun(connect(target), parseHandle(handle), signal),
  };
}

export const a1111 = createA1111Driver();

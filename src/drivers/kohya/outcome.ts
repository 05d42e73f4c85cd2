/** How a run ended, by its exit code, its files and the last it said. */
import { EngineError } from "../driver.ts";
import { cleanMessage } from "../messages.ts";
import type { Status } from "./status.ts";

export type Outcome = { is: "finished" | "canceled" | "lost" } | { is: "failed"; error: EngineError };

/** Of a status that is final, `starting` and `running` aside. */
export function judge(status: Status, lines: readonly string[]): Outcome {
  // It may have finished before the cancel reached it.
  if (status.state === "exited" && status.exitCode === 0 && status.hasModel) return { is: "finished" };
  if (status.isCanceled) return { is: "canceled" };
  // Unknown to this host, or it went down in the midst of it.
  if (status.state !== "exited") return { is: "lost" };
  return { is: "failed", error: explain(status.exitCode, lines) };
}

function explain(exitCode: number, lines: readonly string[]): EngineError {
  const text = lines.join("\n");
  const options = { cause: new Error(`exit code ${exitCode}: ${lines.slice(-20).join("\n")}`) };
  if (/OutOfMemoryError|out of memory|not enough memory/i.test(text)) {
    return new EngineError("out-of-memory", "The server ran out of memory", options);
  }
  // The kernel's way of making room: of the whole group, or of accelerate's child alone.
  if (exitCode === 137 || /Signals\.SIGKILL|exit (?:code|status):? -9\b/.test(text)) {
    return new EngineError(
      "out-of-memory",
      "The training was killed, most likely for the host's lack of memory",
      options,
    );
  }
  if (/UnidentifiedImageError/.test(text)) {
    return new EngineError("bad-input", "The engine cannot read one of the job's pictures", options);
  }
  // These scripts return as if all were well when they find nothing to train on.
  if (exitCode === 0) {
    const reason = /no data found/i.test(text) ? ": the engine found no pictures" : "";
    return new EngineError("engine-failed", `The training ended without a model file${reason}`, options);
  }
  const said = lines.findLast((line) => /^[\w.]*(?:Error|Exception)\b/.test(line) && !/CalledProcessError/.test(line));
  const refused = lines.findLast((line) => /^\S+\.py: error: /.test(line))?.replace(/^.*?: error: /, "");
  const detail = cleanMessage(said ?? refused ?? "");
  return new EngineError("engine-failed", `The training failed${detail ? `: ${detail}` : ` (${exitCode})`}`, options);
}

/** Where things lie on a kohya host, and how our scripts are run there. */
import { EngineError, type EngineTarget } from "../driver.ts";
import type { SshConnection } from "../ssh/connection.ts";

/**
 * Our directory on the host: `checkpoints` holds base models, `runs` what we train. Relative, it is one of the log-in's
 * home, for commands and for SFTP alike.
 * @throws EngineError "bad-input" for a `shared_dir` that is elsewhere
 */
export function workspace(target: EngineTarget): string {
  const { sharedDir } = target;
  if (sharedDir === undefined) return "atelier";
  if (sharedDir.startsWith("/")) return sharedDir.replace(/\/+$/, "");
  throw new EngineError("bad-input", "For kohya, shared_dir is a path on the engine's own host");
}

export const runFolder = (target: EngineTarget, runId: string): string => `${workspace(target)}/runs/${runId}`;

/** What a script printed. @throws EngineError "engine-failed" when it did not come to its end */
export async function runScript(
  ssh: SshConnection,
  script: string,
  values: Record<string, string>,
  signal: AbortSignal,
): Promise<Buffer> {
  const { code, stdout, stderr } = await ssh.run(script, values, signal);
  if (code === 0) return stdout;
  // What the host says may name its paths: for the log alone.
  const cause = new Error(`a script ended with ${code}: ${stderr.slice(0, 2_000)}`);
  throw new EngineError("engine-failed", "The host does not do what it is told", { cause });
}

/** `name<TAB>value` lines, as our scripts print facts; what has no tab is somebody else's noise. */
export function parseFacts(text: string): { name: string; value: string }[] {
  return text.split("\n").flatMap((line) => {
    const tab = line.indexOf("\t");
    return tab < 0 ? [] : [{ name: line.slice(0, tab), value: line.slice(tab + 1) }];
  });
}

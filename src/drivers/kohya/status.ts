/** Where a run stands, and what it has said since we last looked. */
import { EngineError } from "../driver.ts";
import type { SshConnection } from "../ssh/connection.ts";
import { parseFacts, runScript } from "./host.ts";
import { statusScript } from "./scripts.ts";

/** Of the log in one look; hours of training make megabytes. */
const pieceBytes = 1_000_000;

export interface Status {
  /** `gone`: it was at work once, and ended without a word. */
  state: "unknown" | "starting" | "running" | "gone" | "exited";
  /** Of a run that has exited. */
  exitCode: number;
  isCanceled: boolean;
  /** Steps that the runs before it had behind them. */
  resumed: number;
  hasModel: boolean;
  /** Sample pictures in the order in which they were made. */
  samples: { name: string; size: number }[];
  log: Uint8Array;
  /** There may be more of the log already. */
  isMore: boolean;
}

export async function readStatus(
  ssh: SshConnection,
  run: string,
  offset: number,
  signal: AbortSignal,
): Promise<Status> {
  const answer = await runScript(ssh, statusScript, { run, offset: `${offset}`, limit: `${pieceBytes}` }, signal);
  // An empty line ends the facts. Before it, none is empty: each has a name.
  const end = answer.indexOf("\n\n");
  if (end < 0) throw new EngineError("unreachable", "The server's answer was cut off");
  const facts = parseFacts(answer.subarray(0, end).toString());
  const first = (name: string) => facts.find((fact) => fact.name === name)?.value;
  const [state = "unknown", exitCode] = (first("state") ?? "").split(" ");
  const resumed = Number(first("resumed") ?? 0);
  const log = answer.subarray(end + 2);
  return {
    state: state as Status["state"],
    exitCode: Number(exitCode ?? 0),
    isCanceled: first("canceled") !== undefined,
    resumed: Number.isSafeInteger(resumed) ? resumed : 0,
    hasModel: first("model") !== undefined,
    samples: facts.filter((fact) => fact.name === "sample").map((fact) => parseSample(fact.value)),
    log,
    isMore: log.length === pieceBytes,
  };
}

/** `12345 model_000100_00_20261125221500_7.png` */
function parseSample(value: string): Status["samples"][number] {
  const space = value.indexOf(" ");
  return { size: Number(value.slice(0, space)), name: value.slice(space + 1) };
}

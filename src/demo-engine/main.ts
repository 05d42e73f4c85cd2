/**
 * The demo engine as a program of its own, for a supervisor to start:
 *
 *     bun src/demo-engine/main.ts --directory DIR [--port N] [--host H] [--username U --password-env NAME]
 *       [--step-ms N] [--training-nodes A|C] [--max-upload-bytes N] [--instant] [--faults [--seed N]] [--quiet] [--stdin]
 *
 * Prints one line `{"port":N}` on stdout when it listens. Ends on SIGTERM and SIGINT, and with `--stdin` also when its
 * stdin does: its parent is gone then, however it died.
 */
import { parseArgs } from "node:util";
import { startDemoEngine } from "./server.ts";

const { values } = parseArgs({
  options: {
    directory: { type: "string" },
    port: { type: "string", default: "0" },
    host: { type: "string" },
    username: { type: "string" },
    // The name of a variable, not the password: arguments show in every list of processes.
    "password-env": { type: "string" },
    "step-ms": { type: "string" },
    "training-nodes": { type: "string" },
    "max-upload-bytes": { type: "string" },
    instant: { type: "boolean", default: false },
    faults: { type: "boolean", default: false },
    seed: { type: "string" },
    quiet: { type: "boolean", default: false },
    stdin: { type: "boolean", default: false },
  },
});

/** Ends with the usage error's code when an argument makes no sense. */
function refuse(message: string): never {
  console.error(`demo engine: ${message}`);
  process.exit(2);
}

function readNumber(name: "port" | "step-ms" | "max-upload-bytes" | "seed"): number | undefined {
  const value = values[name];
  if (value !== undefined && !/^\d+$/.test(value)) refuse(`--${name} must be a whole number`);
  return value === undefined ? undefined : Number(value);
}

const trainingNodes = values["training-nodes"];
if (trainingNodes !== undefined && trainingNodes !== "A" && trainingNodes !== "C") {
  refuse("--training-nodes must be A or C");
}
const passwordName = values["password-env"];
const password = passwordName === undefined ? undefined : process.env[passwordName];
if (passwordName !== undefined && password === undefined) refuse(`the variable ${passwordName} is not set`);
const engine = await startDemoEngine({
  directory: values.directory ?? refuse("--directory is missing"),
  port: readNumber("port") ?? 0,
  host: values.host,
  username: values.username,
  password,
  stepMs: readNumber("step-ms"),
  trainingNodes,
  maxUploadBytes: readNumber("max-upload-bytes"),
  instant: values.instant,
  faults: values.faults ? { seed: readNumber("seed") } : undefined,
  quiet: values.quiet,
});

async function end(): Promise<void> {
  await engine.stop();
  process.exit(0);
}
process.once("SIGTERM", end);
process.once("SIGINT", end);
if (values.stdin) process.stdin.once("end", end).once("close", end).resume();
console.log(JSON.stringify({ port: engine.port }));

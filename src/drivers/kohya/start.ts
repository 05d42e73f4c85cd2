/** Brings a training to the host and starts it, once, so that it goes on without us. */
import type { SFTPWrapper } from "ssh2";
import { EngineError, type EngineTarget, type InputFile, type TrainingJob } from "../driver.ts";
import { failure } from "../http.ts";
import { type SshConnection, withSsh } from "../ssh/connection.ts";
import { findFile, writeFile } from "../ssh/files.ts";
import { quote } from "../ssh/quote.ts";
import type { KohyaHandle } from "./handle.ts";
import { parseFacts, runScript } from "./host.ts";
import { inspect, trainingScripts } from "./inspect.ts";
import { launchScript, prepareScript, trainScript } from "./scripts.ts";
import { checkpointLink, configToml, dataFiles, datasetToml, places, samplesJson } from "./training-files.ts";

/** Enough to hide the round trips of many small files. */
const uploadsAtOnce = 4;

export async function startRun(target: EngineTarget, handle: KohyaHandle, job: TrainingJob, signal: AbortSignal) {
  const data = dataFiles(job);
  await withSsh(target, signal, "pinned", async (ssh) => {
    const host = await inspect(ssh, target, signal);
    const script = trainingScripts[job.type] as string;
    if (!host.train.includes(job.type)) throw new EngineError("engine-failed", `The host's sd-scripts lack ${script}`);
    const checkpoint = host.checkpoints.get(job.checkpoint);
    if (!checkpoint) throw new EngineError("model-missing", "The job's checkpoint is not on this server");

    const run = `${host.base}/runs/${handle.runId}`;
    const previous = handle.previousId ? `${host.base}/runs/${handle.previousId}` : "";
    const values = {
      ...{ base: host.base, run, previous, checkpoint, link: checkpointLink(job) },
      ...{ tokenizers: host.tokenizersDir ?? "", total: `${job.steps}` },
    };
    const prepared = parseFacts((await runScript(ssh, prepareScript, values, signal)).toString());
    if (prepared.some((fact) => fact.name === "launched")) return;
    const resumed = Number(prepared.find((fact) => fact.name === "resumed")?.value ?? 0);

    const circumstances = { hasGpu: host.hasGpu, hasTokenizers: host.tokenizersDir !== null, resumed };
    const settings = { run, accelerate: host.accelerate, script: `${host.scriptsDir}/${script}.py` };
    const assignments = Object.entries(settings).map(([name, value]) => `${name}=${quote(value)}\n`);
    await upload(ssh, `${run}/${places.data}`, data, signal);
    const files = [
      { name: places.dataset, content: datasetToml(job) },
      { name: places.config, content: configToml(job, circumstances) },
      { name: places.samples, content: samplesJson(job) },
      { name: "run.sh", content: assignments.join("") + trainScript },
    ];
    await upload(ssh, run, files, signal);
    await runScript(ssh, launchScript, { run }, signal);
  });
}

async function upload(
  ssh: SshConnection,
  folder: string,
  files: { name: string; content: InputFile | string }[],
  signal: AbortSignal,
): Promise<void> {
  const waiting = files.values();
  const work = async (sftp: SFTPWrapper) => {
    for (const { name, content } of waiting) await bring(sftp, `${folder}/${name}`, content);
  };
  try {
    await ssh.sftp(signal, (sftp) => Promise.all(Array.from({ length: uploadsAtOnce }, () => work(sftp))));
  } catch (error) {
    if (error instanceof EngineError || signal.aborted) throw failure(error, signal);
    throw new EngineError("engine-failed", "The training's files cannot be written on the host", { cause: error });
  }
}

/** A picture that an interrupted start has brought already is not sent again. */
async function bring(sftp: SFTPWrapper, path: string, content: InputFile | string): Promise<void> {
  if (typeof content !== "string") {
    if ((await findFile(sftp, path))?.size !== content.size) await writeFile(sftp, path, content);
    return;
  }
  const blob = new Blob([content]);
  await writeFile(sftp, path, { size: blob.size, stream: async () => blob.stream() });
}

/** What a kohya host says of itself. */
import { connect } from "node:net";
import { EngineError, type EngineModels, type EngineTarget, type ProbeReport } from "../driver.ts";
import { guessCheckpoints } from "../guess-checkpoints.ts";
import { failure } from "../http.ts";
import { withSsh } from "../ssh/connection.ts";
import { type Host, inspect } from "./inspect.ts";

/** A server of SSH speaks first, and at once; one of HTTP waits for us. */
const bannerMs = 2_000;

export async function probe(target: EngineTarget, signal: AbortSignal): Promise<ProbeReport> {
  if (!target.username) {
    if (await speaksSsh(target, signal)) throw new EngineError("unauthorized", "The SSH log-in needs a username");
    throw new EngineError("wrong-engine", "No SSH server answers there");
  }
  return withSsh(target, signal, "first-use", async (ssh) => {
    const host = await inspect(ssh, target, signal);
    const models = modelsOf(host);
    return {
      engine: "kohya",
      version: host.version,
      devices: host.gpus.map((gpu) => ({ ...gpu, type: "cuda" })),
      queue: { running: host.running, waiting: 0 },
      capabilities: { infer: false, apply: [], train: host.train, schedulers: [], maxUploadBytes: null },
      models,
      checkpoints: guessCheckpoints(models.checkpoints),
      isModelLoaded: null,
      hostKey: ssh.hostKey,
    };
  });
}

export function listModels(target: EngineTarget, signal: AbortSignal): Promise<EngineModels> {
  return withSsh(target, signal, "pinned", async (ssh) => modelsOf(await inspect(ssh, target, signal)));
}

function modelsOf(host: Host): EngineModels {
  return { checkpoints: [...host.checkpoints.keys()], loras: [], hypernetworks: [], embeddings: [] };
}

/** Whether what listens there greets like SSH; sends nothing. @throws EngineError "unreachable" */
async function speaksSsh(target: EngineTarget, signal: AbortSignal): Promise<boolean> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(bannerMs)]);
  return new Promise<boolean>((resolve, reject) => {
    const socket = connect({ host: target.host.replace(/^\[(.*)\]$/, "$1"), port: target.port });
    let heard = "";
    let isConnected = false;
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.on("connect", () => {
      isConnected = true;
    });
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
      // Lines may come before it: RFC 4253, section 4.2.
      if (/^SSH-/m.test(heard)) end(true);
      else if (heard.length > 4_096) end(false);
    });
    socket.on("error", (error) => reject(failure(error, signal)));
    socket.on("close", () => end(false));
    limit.addEventListener(
      "abort",
      () => {
        socket.destroy();
        if (isConnected && !signal.aborted) resolve(false);
        else reject(failure(limit.reason, limit));
      },
      { once: true },
    );
  });
}

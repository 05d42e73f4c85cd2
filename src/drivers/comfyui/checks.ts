/** What the engine would refuse late, clamp, or pass over in silence is refused here, before anything is sent to it. */
import { EngineError, type InferenceJob, type TrainingJob } from "../driver.ts";
import type { ComfyClient } from "./client.ts";
import { samplers, type TrainingNodes } from "./graphs.ts";
import { listOwnersEmbeddings } from "./models.ts";
import { checkRange, getNode, offers } from "./object-info.ts";
import { findTrainingNodes } from "./training-nodes.ts";

/** @throws EngineError "bad-input", "model-missing" for an embedding that a prompt names */
export async function checkInference(client: ComfyClient, job: InferenceJob, signal: AbortSignal): Promise<void> {
  const [sampler, latent] = await Promise.all([
    getNode(client, "KSampler", signal),
    getNode(client, "EmptyLatentImage", signal),
  ]);
  const wanted = samplers[job.scheduler];
  if (!offers(sampler, "sampler_name", wanted.sampler) || !offers(sampler, "scheduler", wanted.scheduler)) {
    throw new EngineError("bad-input", `This engine has no scheduler like ${job.scheduler}`);
  }
  checkRange(sampler, "steps", job.steps, "number of steps");
  checkRange(sampler, "cfg", job.guidanceScale, "guidance scale");
  checkRange(latent, "width", job.width);
  checkRange(latent, "height", job.height);
  checkStrength(job);
  await checkEmbeddings(client, job, signal);
}

/** @throws EngineError "bad-input", "engine-failed" when this build does not train */
export async function checkTraining(
  client: ComfyClient,
  job: TrainingJob,
  signal: AbortSignal,
): Promise<TrainingNodes> {
  if (job.type !== "lora") throw new EngineError("bad-input", `This engine trains no model of the type ${job.type}`);
  // Older builds add two conditions for an empty caption and then fail over their number.
  if (job.pictures.some(({ caption }) => caption.trim() === "")) {
    throw new EngineError("bad-input", "A picture has no caption");
  }
  const nodes = await findTrainingNodes(client, signal);
  if (!nodes) throw new EngineError("engine-failed", "This engine has no nodes to train with");
  checkRange(nodes.train, "steps", job.steps, "number of steps");
  checkRange(nodes.train, "learning_rate", job.learningRate);
  checkRange(nodes.train, "rank", job.rank);
  checkRange(nodes.train, "batch_size", job.batchSize);
  return nodes;
}

/** As many noise levels as the base models were trained with. */
const noiseLevels = 1_000;

/**
 * For a strength below one the engine spaces out `steps / strength` steps and runs the last of them. "ddim_uniform"
 * has only so many to give: beyond that more would change of the picture than was asked for.
 */
function checkStrength({ scheduler, steps, from }: InferenceJob): void {
  if (samplers[scheduler].scheduler !== "ddim_uniform" || !from || from.strength <= 0) return;
  const most = Math.floor(noiseLevels * from.strength);
  if (steps <= most) return;
  const limit = `at most ${most} steps with a strength of ${from.strength}`;
  throw new EngineError("bad-input", `On this engine ${scheduler} takes ${limit}, not ${steps}`);
}

/**
 * Users may name embeddings of the engine's owner in their prompts. One that is missing would be left out in silence,
 * and ours are other people's: their names are as good as missing.
 */
async function checkEmbeddings(client: ComfyClient, job: InferenceJob, signal: AbortSignal): Promise<void> {
  const named = [...`${job.prompt}\n${job.negativePrompt}`.matchAll(/embedding:([^\s,():]*)/g)].map(([, name]) => name);
  if (named.length === 0) return;
  const known = await listOwnersEmbeddings(client, signal);
  const missing = named.find((name = "") => !known.includes(name.replace(/\.(safetensors|pt|bin)$/, "")));
  if (missing === undefined) return;
  if (missing === "") throw new EngineError("bad-input", "The prompt says `embedding:` without a name");
  throw new EngineError("model-missing", `The prompt names an embedding that is not on this server: ${missing}`);
}

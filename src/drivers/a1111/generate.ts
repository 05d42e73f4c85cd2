/** Makes one picture: the request, and what becomes of its answer. */
import { type Artifact, EngineError, type InferenceJob } from "../driver.ts";
import type { HttpClient } from "../http.ts";
import { embeddings, type GenerationInfo, generated, generationInfo, options, type SdModel } from "./answers.ts";
import type { Engine } from "./engine.ts";
import type { A1111Handle } from "./handle.ts";
import { findCheckpoint, isSameCheckpoint, listEmbeddings, placeModel } from "./models.ts";
import { writePrompts } from "./prompt.ts";
import { parseJson, refusedRequest } from "./refusals.ts";
import type { Outcome, OwnRun } from "./runs.ts";
import { findSampler } from "./samplers.ts";
import { getProgress } from "./state.ts";

/** An answer beyond this is no picture. In base64 it is held in memory as a whole. */
const answerAtMost = 200_000_000;
const pictureExtensions = ["png", "jpg", "jpeg", "webp"];

export interface GenerationRequest {
  path: "/sdapi/v1/txt2img" | "/sdapi/v1/img2img";
  body: Record<string, unknown>;
  /** What the answer must confirm. */
  expected: {
    sampler: string;
    checkpoint: SdModel;
    lora: string | null;
    tellsLoras: boolean;
    embedding: string | null;
  };
}

/** Brings what the picture needs to the engine. @throws EngineError for all that the engine would pass over in silence */
export async function prepareGeneration(
  engine: Engine,
  handle: A1111Handle,
  job: InferenceJob,
  signal: AbortSignal,
): Promise<GenerationRequest> {
  const { client } = engine;
  const { model, from } = job;
  // The engine would make a smaller picture.
  if (job.width % 8 !== 0 || job.height % 8 !== 0) {
    throw new EngineError("bad-input", "The width and the height must be multiples of 8");
  }
  const [sampler, settings] = await Promise.all([
    findSampler(client, job.scheduler, signal),
    client.get("/sdapi/v1/options", options, signal),
  ]);
  const placed = model ? await placeModel(engine, model.type, model.file, signal) : null;
  const checkpoint = placed?.checkpoint ?? (await findCheckpoint(client, job.checkpoint, signal));
  const name = placed && !placed.checkpoint ? placed.name : null;
  const prompts = writePrompts(job, name, await listEmbeddings(client, signal));
  const body: Record<string, unknown> = {
    ...prompts,
    seed: job.seed,
    steps: job.steps,
    cfg_scale: job.guidanceScale,
    width: job.width,
    height: job.height,
    sampler_name: sampler.name,
    ...(sampler.schedule ? { scheduler: sampler.schedule } : {}),
    override_settings: {
      sd_model_checkpoint: checkpoint.title,
      // As many steps as were asked for, whatever the strength. Not every build has the setting.
      ...(from && settings.img2img_fix_steps != null ? { img2img_fix_steps: true } : {}),
    },
    // The next job most likely wants the same model.
    override_settings_restore_afterwards: false,
    force_task_id: handle.taskId,
  };
  if (from) {
    body.init_images = [await toBase64(from.image)];
    body.denoising_strength = from.strength;
    // Cut to the wanted shape rather than stretched.
    body.resize_mode = 1;
  }
  return {
    path: from ? "/sdapi/v1/img2img" : "/sdapi/v1/txt2img",
    body,
    expected: {
      sampler: sampler.name,
      checkpoint,
      lora: model?.type === "lora" ? name : null,
      embedding: model?.type === "ti" ? name : null,
      tellsLoras: settings.lora_add_hashes_to_infotext === true,
    },
  };
}

async function toBase64(image: NonNullable<InferenceJob["from"]>["image"]): Promise<string> {
  if (!pictureExtensions.includes(image.extension.toLowerCase())) {
    throw new EngineError("bad-input", `This engine reads no pictures of the type ${image.extension}`);
  }
  return Buffer.from(await new Response(await image.stream()).arrayBuffer()).toString("base64");
}

/** Sends the request and waits for the picture, which may take as long as it likes. Never rejects. */
export async function generate(client: HttpClient, request: GenerationRequest, run: OwnRun): Promise<Outcome> {
  const { path, body, expected } = request;
  const call = { method: "POST" as const, json: body, timeoutMs: null };
  try {
    run.isSubmitted = true;
    const answer = await client.request(path, new AbortController().signal, call, async (response) => {
      return { status: response.status, text: await readAtMost(response) };
    });
    // A proxy that lost patience says nothing about the run behind it.
    if (answer.status === 429 || (answer.status >= 502 && answer.status <= 504)) return { is: "cut" };
    if (answer.status !== 200) return { is: "failed", error: refusedRequest(answer.status, answer.text) };
    const { images, info } = parseAnswer(answer.text);
    if (await isInterrupted(client, info)) return { is: "canceled" };
    const artifact = readPicture(images, info, expected);
    if (expected.embedding && (await isSkipped(client, expected.embedding))) {
      const error = new EngineError(
        "model-missing",
        "The engine did not apply the model: it does not fit the checkpoint",
      );
      return { is: "failed", error };
    }
    return { is: "finished", artifacts: [artifact] };
  } catch (error) {
    if (error instanceof EngineError && error.errorClass !== "unreachable") return { is: "failed", error };
    return { is: "cut" };
  }
}

/** Whether somebody ended the run early: what came back then is half a picture, and not marked as one. */
async function isInterrupted(client: HttpClient, info: GenerationInfo): Promise<boolean> {
  const { state } = (await getProgress(client, AbortSignal.timeout(5_000)).catch(() => null)) ?? {};
  // The next job may have begun, or even ended, before we asked: the flag is that one's then.
  const isAnothers = info.job_timestamp && state?.job_timestamp && info.job_timestamp !== state.job_timestamp;
  return state?.interrupted === true && !isAnothers;
}

/** Embeddings of another width than the checkpoint's are left out in silence. */
async function isSkipped(client: HttpClient, name: string): Promise<boolean> {
  const signal = AbortSignal.timeout(5_000);
  const found = await client.find("/sdapi/v1/embeddings", embeddings, signal).catch(() => null);
  return found !== null && name in found.skipped;
}

async function readAtMost(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > answerAtMost) throw new EngineError("engine-failed", "The engine's answer is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parseAnswer(text: string): { images: string[]; info: GenerationInfo } {
  const answer = generated.safeParse(parseJson(text));
  const info = answer.success ? generationInfo.safeParse(parseJson(answer.data.info)) : null;
  if (!answer.success || !info?.success) throw new EngineError("engine-failed", "The engine's answer makes no sense");
  return { images: answer.data.images, info: info.data };
}

/** @throws EngineError when there is no picture, or not the one that was asked for */
function readPicture(images: string[], info: GenerationInfo, expected: GenerationRequest["expected"]): Artifact {
  const substituted = findSubstitution(info, expected);
  if (substituted) throw substituted;
  const data = images[info.index_of_first_image ?? 0]?.replace(/^data:[^,]*,/, "");
  if (!data) throw new EngineError("engine-failed", "The engine reports success, but there is no picture");
  return { role: "image", contentType: contentTypeOf(data), locator: { data } };
}

/** What the engine took in another's place without a word. */
function findSubstitution(info: GenerationInfo, expected: GenerationRequest["expected"]): EngineError | null {
  const text = info.infotexts?.[0] ?? "";
  const used = {
    name: info.sd_model_name ?? text.match(/, Model: ([^,\n]+)/)?.[1] ?? null,
    hash: info.sd_model_hash ?? text.match(/, Model hash: ([0-9a-f]+)/)?.[1] ?? null,
  };
  if (isSameCheckpoint(expected.checkpoint, used) === false) {
    return new EngineError("model-missing", "The engine used another checkpoint than the job's");
  }
  if (info.sampler_name && info.sampler_name !== expected.sampler) {
    return new EngineError("engine-failed", `The engine used another sampler than ${expected.sampler}`);
  }
  if (expected.lora && expected.tellsLoras) {
    // Not anywhere in the text: that begins with the prompt, tag and all.
    const told = info.extra_generation_params?.["Lora hashes"] ?? text.match(/Lora hashes: "([^"]*)"/)?.[1] ?? "";
    if (!String(told).includes(expected.lora))
      return new EngineError("model-missing", "The engine did not apply the model");
  }
  return null;
}

function contentTypeOf(base64: string): string {
  if (base64.startsWith("/9j/")) return "image/jpeg";
  return base64.startsWith("UklGR") ? "image/webp" : "image/png";
}

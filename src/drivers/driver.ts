/**
 * What a driver is: our code that speaks to one kind of engine. A driver knows no database and no queue: a job in,
 * events and files out. The docstrings here are the contract that every driver's tests check.
 */

import type { HostFiles } from "./host-files/index.ts";

export const engineNames = ["comfyui", "a1111", "kohya"] as const;
export type EngineName = (typeof engineNames)[number];

/** Where an engine answers and how to be let in. */
export interface EngineTarget {
  /** Host name or address, as the server's record has it. */
  host: string;
  port: number;
  tls: boolean;
  /** PEM of a private certificate authority, for engines behind their own TLS. */
  tlsCa?: string;
  /** Basic auth (HTTP engines) or the SSH log-in. Sent only when a username is set. */
  username?: string;
  password?: string;
  /** PEM or OpenSSH private key for SSH; with a passphrase, that is `password`. */
  privateKey?: string;
  /** The pinned SSH host key, `type base64`. Without it only a probe connects, and reports what it was shown. */
  hostKey?: string;
  /**
   * Where model files for the engine can be put, see host-files/: an absolute path here, or `sftp://user@host/path`.
   * Unset as well while the probe cannot get at it: then placing is not among the server's capabilities.
   */
  sharedDir?: string;
}

/** A file that a job hands to the engine. `stream` may be called more than once. */
export interface InputFile {
  /** sha256 of the bytes in lower-case hex: equal content is uploaded under an equal name. */
  hash: string;
  size: number;
  /** Extension without the dot: `png`, `safetensors`. */
  extension: string;
  stream(): Promise<ReadableStream<Uint8Array>>;
}

export const schedulers = ["DDIM", "K_EULER", "DPMSolverMultistep", "K_EULER_ANCESTRAL", "PNDM", "KLMS"] as const;
export type Scheduler = (typeof schedulers)[number];
export type ModelType = "lora" | "ckp" | "hyper" | "ti";

/** One picture to make. Sizes in pixels; the seed is concrete (0 to 2^31 - 1). */
export interface InferenceJob {
  kind: "infer";
  /** The engine's own file name of the base checkpoint, exactly as it reported it. */
  checkpoint: string;
  prompt: string;
  negativePrompt: string;
  width: number;
  height: number;
  steps: number;
  guidanceScale: number;
  scheduler: Scheduler;
  seed: number;
  /** Start from this picture; `strength` is the share that may change, 0 to 1. */
  from?: { image: InputFile; strength: number };
  /** Our own model to apply. `triggerWords` are for engines that need them named in the prompt. */
  model?: { type: ModelType; file: InputFile; weight: number; triggerWords: string };
}

/** One model to train. */
export interface TrainingJob {
  kind: "train";
  type: ModelType;
  checkpoint: string;
  baseModel: "SD1.5" | "SD2";
  /** At least one; captions are never empty. */
  pictures: { image: InputFile; caption: string }[];
  /** Optimiser steps. */
  steps: number;
  learningRate: number;
  rank: number;
  batchSize: number;
  /** Edge length in pixels that pictures are fitted to. */
  resolution: number;
  seed: number;
  /** What the model will be called with in prompts; empty when there is no such word. */
  triggerWords: string;
}

export type EngineJob = InferenceJob | TrainingJob;

/**
 * Finds one run on its engine again: ids and names chosen by us before anything is submitted. Plain JSON; whoever
 * holds it can watch, fetch and cancel the run, also another process after a crash.
 */
export type EngineHandle = { engine: EngineName; runId: string } & Record<string, string | number | boolean | null>;

/** A file that a run produced, to be given back to `fetch`. Plain JSON. */
export interface Artifact {
  role: "image" | "model" | "sample";
  contentType: string;
  /** Of a model: `pt` is a pickle, which is stored as it is and never opened. Default `safetensors`. */
  extension?: "safetensors" | "pt";
  /** Of a sample: after how many steps of the whole training it was made. */
  step?: number;
  /** The engine's own words for where it lies. */
  locator: Record<string, string>;
}

export type Phase = "loading" | "steps" | "saving";

/**
 * What happens to a run. Exactly one terminal event (`finished`, `failed`, `canceled`, `lost`) comes, and it comes
 * last. Progress never runs backwards within one run, over all nodes and passes of the engine.
 */
export type EngineEvent =
  | { type: "queued"; position: number }
  | { type: "started" }
  | { type: "progress"; phase: Phase; step: number; total: number; loss?: number }
  /** From now on the engine may work for so long without a sign of progress; 0 when it is seen to advance again. */
  | { type: "silent"; forMs: number }
  | { type: "preview"; contentType: string; bytes: Uint8Array }
  | { type: "artifact"; artifact: Artifact }
  | { type: "finished" }
  | { type: "failed"; error: EngineError }
  | { type: "canceled" }
  /** The engine answers but has never heard of the run, or forgot it. Only this allows to submit anew. */
  | { type: "lost" };

/** What an engine said of itself. Names are the engine's own, to be passed back exactly as received. */
export interface ProbeReport {
  engine: EngineName;
  version: string;
  devices: { name: string; type: string; memoryTotalBytes: number | null; memoryFreeBytes: number | null }[];
  queue: { running: number; waiting: number };
  capabilities: {
    infer: boolean;
    /** Model types that can be applied to a picture here: by upload, or with the access that we have to the host. */
    apply: ModelType[];
    /** Model types that can be trained here. */
    train: ModelType[];
    schedulers: Scheduler[];
    /** The largest model that can be brought there; null where no limit is known. */
    maxUploadBytes: number | null;
  };
  models: EngineModels;
  /** A guess which checkpoint file stands for which base model, by the file's name. */
  checkpoints: Partial<Record<"SD1.5" | "SD2", string>>;
  /** True when a model is known to be loaded; null where the engine does not say. */
  isModelLoaded: boolean | null;
  /** The SSH host key that was shown, for drivers that log in by SSH: to be pinned where none is. */
  hostKey?: string;
}

export interface EngineModels {
  checkpoints: string[];
  loras: string[];
  hypernetworks: string[];
  embeddings: string[];
}

export const errorClasses = [
  "bad-input", // the engine refuses the job itself: no other attempt will do
  "model-missing", // a file that the job needs is not on this server: another may have it
  "out-of-memory",
  "unauthorized", // the engine refuses our credentials
  "untrusted", // its SSH host key is not the pinned one: nothing was sent
  "unreachable", // no connection, or the answer was cut off
  "wrong-engine", // something else answers there
  "engine-failed", // it broke in the middle
  "engine-lost", // it restarted and forgot the run
  "stalled", // it answers, but does not advance
  "deadline", // the task's own time is over: none of the engine's doing
] as const;
export type ErrorClass = (typeof errorClasses)[number];

/** Whatever an engine did wrong. `message` is for the task's owner: no secrets, no stack, no paths of the engine. */
export class EngineError extends Error {
  override readonly name = "EngineError";
  readonly isRetryable: boolean;
  /** The SSH host key that was shown at a probe's first log-in, after which something else failed: to be pinned too. */
  hostKey?: string;
  constructor(
    readonly errorClass: ErrorClass,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
    this.isRetryable = errorClass !== "bad-input" && errorClass !== "deadline";
  }
}

export interface Driver {
  readonly engine: EngineName;

  /** Its `sharedDir` is a path on its own host, which it reaches by itself; else it is one as host-files/ has it. */
  readonly ownsSharedDir?: boolean;

  /** The models that we put on the engine's host; null without access to it. Absent where a driver puts none there. */
  hostFiles?(target: EngineTarget): HostFiles | null;

  /** @throws EngineError "unreachable", "unauthorized", "untrusted", "wrong-engine". The caller's signal carries the time limit. */
  probe(target: EngineTarget, signal: AbortSignal): Promise<ProbeReport>;

  /** The live model lists only: cheaper than a probe. */
  listModels(target: EngineTarget, signal: AbortSignal): Promise<EngineModels>;

  /**
   * Chooses ids and names for a run. Pure: nothing is sent. Store the handle before `start`.
   * @param runId a UUID in lower case that no other run has
   * @param previous the ended run of an earlier attempt at the same job on the same server. Where the engine has saved
   *   states, `start` goes on from the last one; other drivers ignore it
   */
  prepare(runId: string, job: EngineJob, previous?: EngineHandle): EngineHandle;

  /**
   * Uploads what the job needs and submits it. May be called again with the same handle: a run that the engine
   * already has is not submitted twice.
   * @throws EngineError
   */
  start(target: EngineTarget, handle: EngineHandle, job: EngineJob, signal: AbortSignal): Promise<void>;

  /**
   * Follows a run to its end, from whichever state it is in; works in another process than `start` did. Connection
   * losses are borne: the iterator goes on when the engine answers again, and throws only what the signal aborts.
   * While the engine is unreachable no event comes; the caller's stall limit decides when that is too long.
   */
  watch(target: EngineTarget, handle: EngineHandle, signal: AbortSignal): AsyncIterable<EngineEvent>;

  /** Streams an artifact as soon as `watch` has told of it. @throws EngineError */
  fetch(target: EngineTarget, artifact: Artifact, signal: AbortSignal): Promise<ReadableStream<Uint8Array>>;

  /**
   * Ends a run, waiting or running, and nothing else on that engine. Idempotent; an unknown run is no error. The run
   * may still finish: `watch` has the last word.
   */
  cancel(target: EngineTarget, handle: EngineHandle, signal: AbortSignal): Promise<void>;
}

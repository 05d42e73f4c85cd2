/**
 * Node descriptions from `/object_info/<class>`. Classes, their inputs and the order of their outputs differ between
 * builds, so graphs are laid out by what the engine declares rather than by what we remember.
 */
import { z } from "zod";
import { EngineError } from "../driver.ts";
import type { ComfyClient } from "./client.ts";

const config = z.looseObject({
  default: z.unknown().optional(),
  min: z.number().optional(),
  max: z.number().optional(),
  step: z.number().optional(),
  options: z.array(z.unknown()).optional(),
});

/** `[TYPE, {…}]`, or for a choice either `[[options], {…}]` or the newer `["COMBO", { options }]`. */
const input = z.tuple([z.union([z.string(), z.array(z.unknown())])], z.unknown()).transform(([type, second]) => {
  const settings = config.catch({}).parse(second ?? {});
  return { ...settings, options: Array.isArray(type) ? type : settings.options };
});
export type NodeInput = z.infer<typeof input>;

const inputs = z.record(z.string(), input).default({});
const node = z.looseObject({
  input: z.looseObject({ required: inputs, optional: inputs }),
  // A choice among an old node's outputs is a list here; none that we use has one.
  output: z.array(z.unknown()),
});
export type NodeInfo = z.infer<typeof node>;

/** The description of a node class, or null when this engine has no such class (it answers `{}`). */
export async function findNode(client: ComfyClient, name: string, signal: AbortSignal): Promise<NodeInfo | null> {
  const answer = await client.find(`/object_info/${name}`, z.record(z.string(), node), signal);
  return answer?.[name] ?? null;
}

/** @throws EngineError "engine-failed": the build lacks a node that the job needs; another server may have it */
export async function getNode(client: ComfyClient, name: string, signal: AbortSignal): Promise<NodeInfo> {
  const found = await findNode(client, name, signal);
  if (!found) throw new EngineError("engine-failed", `The engine has no node ${name}, which the job needs`);
  return found;
}

export function findInput(info: NodeInfo, name: string): NodeInput | undefined {
  return info.input.required[name] ?? info.input.optional[name];
}

/** Index of the first output of a type: newer builds dropped outputs before the one that is wanted. */
export function outputIndex(info: NodeInfo, type: string): number {
  const index = info.output.indexOf(type);
  if (index < 0) throw new EngineError("engine-failed", `The engine's node has no output of type ${type}`);
  return index;
}

/** Whether a choice is on offer; true where the engine declares no list. */
export function offers(info: NodeInfo, name: string, value: string): boolean {
  return findInput(info, name)?.options?.includes(value) ?? true;
}

/**
 * Holds a number against the engine's declared range. Nothing is clamped: who asked for 200 steps and gets 100 would
 * never know.
 * @throws EngineError "bad-input"
 */
export function checkRange(info: NodeInfo, name: string, value: number, words = name.replaceAll("_", " ")): void {
  const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY, step = 1 } = findInput(info, name) ?? {};
  if (!(value >= min && value <= max)) {
    throw new EngineError("bad-input", `The ${words} must be between ${min} and ${max} on this engine, not ${value}`);
  }
  // The engine does not insist on a step but rounds in silence. Below one it only serves the editor's knobs.
  if (step > 1 && value % step !== 0) {
    throw new EngineError("bad-input", `The ${words} must be a multiple of ${step} on this engine, not ${value}`);
  }
}

/**
 * Fills every required input of a node: ours where we have a value, else the default that the engine declares.
 * @throws EngineError "engine-failed" for a required input that has neither
 */
export function fillInputs(info: NodeInfo, ours: Record<string, unknown>): Record<string, unknown> {
  const filled: Record<string, unknown> = {};
  for (const [name, declared] of Object.entries(info.input.required)) {
    const value = ours[name] ?? declared.default ?? declared.options?.[0];
    if (value === undefined)
      throw new EngineError("engine-failed", `The engine asks for ${name}, which we do not know`);
    filled[name] = value;
  }
  for (const name of Object.keys(info.input.optional)) {
    if (ours[name] !== undefined) filled[name] = ours[name];
  }
  return filled;
}

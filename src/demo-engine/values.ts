/** What travels along a graph's links, and a node's inputs as its code reads them. */
import type { Picture } from "./picture.ts";
import { PythonError } from "./python.ts";
import type { Style } from "./style.ts";

/** A LoRA in use: its style and how strongly it shows. */
export interface AppliedStyle {
  style: Style;
  strength: number;
}

/** A prompt after the text encoder: the text is all there is to encode here. */
export interface Conditioning {
  text: string;
  clipSkip: number;
}

/** Losses of a training, one a step. */
export type LossMap = number[];

/**
 * A value on a link, tagged with ComfyUI's own type name. Batches and lists are both arrays: which of the two it is
 * changes how often a real node runs, not what comes out.
 */
export type Value =
  | { type: "MODEL"; checkpoint: string; styles: AppliedStyle[] }
  | { type: "CLIP"; checkpoint: string; clipSkip: number; styles: AppliedStyle[] }
  | { type: "VAE"; checkpoint: string }
  | { type: "CONDITIONING"; conditionings: Conditioning[] }
  /** Pictures, not latents: there is no encoder. An empty latent has sizes only. */
  | { type: "LATENT"; width: number; height: number; count: number; pictures: Picture[] | null }
  | { type: "IMAGE"; pictures: Picture[] }
  /** Nothing here takes a mask; it only needs to be there. */
  | { type: "MASK" }
  | { type: "STRING"; texts: string[] }
  | { type: "INT"; value: number }
  | { type: "LORA_MODEL"; style: Style; file: Uint8Array }
  | { type: "LOSS_MAP"; losses: LossMap };

export type ValueOf<Type extends Value["type"]> = Extract<Value, { type: Type }>;

/** Literal inputs have been checked and coerced before a node runs, so a wrong type here is a bug of the engine. */
export class NodeInputs {
  constructor(
    private readonly literals: ReadonlyMap<string, unknown>,
    private readonly links: ReadonlyMap<string, Value>,
  ) {}

  text(name: string): string {
    return String(this.literals.get(name) ?? "");
  }

  /** @param fallback for an optional input that the graph leaves out */
  number(name: string, fallback?: number): number {
    const linked = this.links.get(name);
    if (linked?.type === "INT") return linked.value;
    const value = this.literals.get(name) ?? fallback;
    if (typeof value !== "number") throw missing(name);
    return value;
  }

  value<Type extends Value["type"]>(name: string, type: Type): ValueOf<Type> {
    const value = this.optional(name, type);
    if (value === null) throw missing(name);
    return value;
  }

  /** Null when an optional input is not linked. */
  optional<Type extends Value["type"]>(name: string, type: Type): ValueOf<Type> | null {
    const value = this.links.get(name);
    return value?.type === type ? (value as ValueOf<Type>) : null;
  }

  /** Whether the graph gives this input at all. */
  has(name: string): boolean {
    return this.links.has(name) || this.literals.has(name);
  }

  /** Inputs as an `execution_error` shows them. */
  describe(): Record<string, unknown[]> {
    const described: Record<string, unknown[]> = {};
    for (const [name, value] of this.literals) described[name] = [value];
    for (const [name, value] of this.links) described[name] = [`<${value.type}>`];
    return described;
  }
}

function missing(name: string): PythonError {
  return new PythonError("TypeError", `missing 1 required positional argument: '${name}'`);
}

/** The node classes of this engine: what a class declares, and how `GET /object_info` shows it. */
import type { EngineFiles } from "./files.ts";
import type { Picture } from "./picture.ts";
import type { NodeInputs, Value } from "./values.ts";

/** One declared input. `options` makes it a choice; they are listed anew on each use, so fresh uploads count. */
export interface InputSpec {
  /** `INT`, `FLOAT`, `STRING`, `BOOLEAN`, `COMBO`, or the type of a link. */
  type: string;
  options?: (files: EngineFiles) => readonly string[];
  config: { min?: number; max?: number; default?: unknown; [hint: string]: unknown };
}

/** What a running node may do besides computing. Every step of every node passes through `step`. */
export interface NodeRun {
  files: EngineFiles;
  /** Do as little as a valid result takes. */
  isInstant: boolean;
  /** What is to be saved for `bytes`: the same, unless a fault was asked for. */
  saved(bytes: Uint8Array): Uint8Array;
  /**
   * Reports step `value` of `max`, with a picture of the state if there is one to show; waits out the least time of
   * a step.
   * @throws InterruptError when an interrupt was asked for
   */
  step(value: number, max: number, preview?: () => { picture: Picture; width: number; height: number }): Promise<void>;
}

export interface NodeResult {
  outputs: Value[];
  /** Of output nodes: goes into `executed` and the history. */
  ui?: Record<string, unknown[]>;
}

export interface NodeClass {
  displayName: string;
  category: string;
  module?: string;
  description?: string;
  required: Record<string, InputSpec>;
  optional?: Record<string, InputSpec>;
  outputs: readonly { type: Value["type"]; name?: string; isList?: boolean }[];
  /** Saves something: a graph needs at least one of these. */
  isOutput?: boolean;
  isExperimental?: boolean;
  isInputList?: boolean;
  /** The newer way to describe choices: `["COMBO", {options}]` instead of `[[…], {…}]`. */
  isSchemaV3?: boolean;
  /** Inputs that are checked by this instead of list and range: true, or what is wrong. */
  validators?: Record<string, (value: unknown, files: EngineFiles) => true | string>;
  /** Changes when the node must run again though its inputs are the same: the state of a file. */
  changeKey?: (literals: ReadonlyMap<string, unknown>, files: EngineFiles) => Promise<string>;
  run(inputs: NodeInputs, run: NodeRun): Promise<NodeResult> | NodeResult;
}

export type NodeClasses = ReadonlyMap<string, NodeClass>;

export const link = (type: Value["type"], config: InputSpec["config"] = {}): InputSpec => ({ type, config });
export const text = (value: string, config: InputSpec["config"] = {}): InputSpec => ({
  type: "STRING",
  config: { default: value, ...config },
});
export const flag = (value: boolean): InputSpec => ({ type: "BOOLEAN", config: { default: value } });
export const integer = (value: number, min: number, max: number, hints = {}): InputSpec => ({
  type: "INT",
  config: { default: value, min, max, ...hints },
});
export const decimal = (value: number, min: number, max: number, step: number): InputSpec => ({
  type: "FLOAT",
  config: { default: value, min, max, step },
});
export const choice = (
  options: readonly string[] | ((files: EngineFiles) => readonly string[]),
  config: InputSpec["config"] = {},
): InputSpec => ({ type: "COMBO", options: typeof options === "function" ? options : () => options, config });

/** An input as `object_info` and the `input_config` of errors show it. */
export function describeInput(spec: InputSpec, isSchemaV3: boolean, files: EngineFiles): unknown[] {
  if (spec.options === undefined) return [spec.type, spec.config];
  const options = spec.options(files);
  return isSchemaV3 ? ["COMBO", { multiselect: false, ...spec.config, options }] : [options, spec.config];
}

/** One class in the form of `GET /object_info`. */
export function describeNode(name: string, node: NodeClass, files: EngineFiles): Record<string, unknown> {
  const isV3 = node.isSchemaV3 ?? false;
  const describe = (specs: Record<string, InputSpec>) =>
    Object.fromEntries(Object.entries(specs).map(([input, spec]) => [input, describeInput(spec, isV3, files)]));
  return {
    input: {
      required: describe(node.required),
      ...(node.optional === undefined ? {} : { optional: describe(node.optional) }),
      ...(node.isOutput ? { hidden: { prompt: "PROMPT", extra_pnginfo: "EXTRA_PNGINFO" } } : {}),
    },
    input_order: {
      required: Object.keys(node.required),
      ...(node.optional === undefined ? {} : { optional: Object.keys(node.optional) }),
      ...(node.isOutput ? { hidden: ["prompt", "extra_pnginfo"] } : {}),
    },
    is_input_list: node.isInputList ?? false,
    output: node.outputs.map(({ type }) => type),
    output_is_list: node.outputs.map(({ isList }) => isList ?? false),
    output_name: node.outputs.map(({ type, name: label }) => label ?? type),
    name,
    display_name: node.displayName,
    description: node.description ?? "",
    python_module: node.module ?? "nodes",
    category: node.category,
    output_node: node.isOutput ?? false,
    ...(node.isExperimental ? { experimental: true } : {}),
  };
}

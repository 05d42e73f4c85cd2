/** Graphs as clients post them, and ComfyUI's validation of them with its error types and wording. */
import type { EngineFiles } from "./files.ts";
import { describeInput, type InputSpec, type NodeClass, type NodeClasses } from "./nodes.ts";
import { bool, float, int, PythonError, repr, str } from "./python.ts";

/** One node of a posted graph. Literals are coerced in place by the validation. */
export interface GraphNode {
  class_type: string;
  inputs: Record<string, unknown>;
}

/** By node id. */
export type Graph = Record<string, GraphNode>;

/** A link to another node's output. Any two-element array is one; other literal lists must be wrapped. */
export type Link = [nodeId: string, output: number];

export interface ValidationError {
  type: string;
  message: string;
  details: string;
  extra_info: Record<string, unknown>;
}

export interface NodeErrors {
  errors: ValidationError[];
  dependent_outputs: string[];
  class_type: string;
}

export interface Validation {
  /** Null when at least one output can be made; the rest is in `nodeErrors` then and silently left out. */
  error: ValidationError | null;
  nodeErrors: Record<string, NodeErrors>;
  /** Ids of the output nodes to execute. */
  outputs: string[];
}

export function isLink(value: unknown): value is Link {
  return Array.isArray(value) && value.length === 2;
}

export function validationError(
  type: string,
  message: string,
  details: string,
  extraInfo: Record<string, unknown> = {},
): ValidationError {
  return { type, message, details, extra_info: extraInfo };
}

/** What the validation depends on besides the graph. */
export interface ValidationContext {
  classes: NodeClasses;
  files: EngineFiles;
  /** What an unknown class is called: it changed over ComfyUI's generations. */
  unknownNodeType: "invalid_prompt" | "missing_node_type";
}

/**
 * Checks a graph and coerces its literals in place.
 *
 * @param targets only these output nodes, or null for all
 */
export function validateGraph(
  posted: Record<string, unknown>,
  targets: string[] | null,
  context: ValidationContext,
): Validation {
  const refuse = (error: ValidationError): Validation => ({ error, nodeErrors: {}, outputs: [] });
  const outputs: string[] = [];
  for (const [id, value] of Object.entries(posted)) {
    const node = (value ?? {}) as Record<string, unknown>;
    const name = node.class_type;
    const nodeClass = typeof name === "string" ? context.classes.get(name) : undefined;
    if (nodeClass === undefined) return refuse(unknownNode(id, node, context));
    if (typeof node.inputs !== "object" || node.inputs === null) node.inputs = {};
    if (nodeClass.isOutput && (targets === null || targets.includes(id))) outputs.push(id);
  }
  if (outputs.length === 0) return refuse(validationError("prompt_no_outputs", "Prompt has no outputs", ""));

  const validator = new Validator(posted as unknown as Graph, context);
  const nodeErrors: Record<string, NodeErrors> = {};
  const good: string[] = [];
  const failures: string[] = [];
  for (const output of outputs) {
    const result = validator.validateOutput(output);
    if (result.isValid) {
      good.push(output);
      continue;
    }
    for (const reason of result.errors) failures.push(`* (prompt): ${reason.message}: ${reason.details}`);
    validator.collectErrors(output, nodeErrors);
  }
  if (good.length > 0) return { error: null, nodeErrors, outputs: good };
  const error = validationError(
    "prompt_outputs_failed_validation",
    "Prompt outputs failed validation",
    failures.join("\n"),
  );
  return { error, nodeErrors, outputs: [] };
}

function unknownNode(id: string, node: Record<string, unknown>, context: ValidationContext): ValidationError {
  const meta = node._meta as { title?: string } | undefined;
  const hasClass = typeof node.class_type === "string";
  if (context.unknownNodeType === "invalid_prompt") {
    const message = hasClass
      ? `Cannot execute because node ${node.class_type} does not exist.`
      : "Cannot execute because a node is missing the class_type property.";
    return validationError("invalid_prompt", message, `Node ID '#${id}'`);
  }
  const message = hasClass
    ? `Node '${meta?.title ?? node.class_type}' not found. The custom node may not be installed.`
    : `Node '${meta?.title ?? `ID #${id}`}' has no class_type. The workflow may be corrupted or a custom node is missing.`;
  const classType = hasClass ? node.class_type : null;
  const title = meta?.title ?? classType;
  return validationError("missing_node_type", message, `Node ID '#${id}'`, {
    node_id: id,
    class_type: classType,
    node_title: title,
  });
}

interface NodeValidity {
  isValid: boolean;
  errors: ValidationError[];
}

class Validator {
  private readonly results = new Map<string, NodeValidity>();
  /** The nodes between the output and the one being looked at: meeting one again is a cycle. */
  private readonly path: string[] = [];

  constructor(
    private readonly graph: Graph,
    private readonly context: ValidationContext,
  ) {}

  validateOutput(id: string): NodeValidity {
    try {
      return this.validate(id);
    } catch (exception) {
      const { type, message } = asPython(exception);
      const info = { exception_type: type, traceback: [] };
      const error = validationError("exception_during_validation", "Exception when validating node", message, info);
      return this.settle(id, { isValid: false, errors: [error] });
    }
  }

  /** Adds the errors known so far to `into`, as caused for `output`. Nodes that only depend on a bad one have none. */
  collectErrors(output: string, into: Record<string, NodeErrors>): void {
    for (const [id, { isValid, errors }] of this.results) {
      if (isValid || errors.length === 0) continue;
      const classType = this.graph[id]?.class_type ?? "";
      into[id] ??= { errors, dependent_outputs: [], class_type: classType };
      into[id].dependent_outputs.push(output);
    }
  }

  private settle(id: string, validity: NodeValidity): NodeValidity {
    this.results.set(id, validity);
    return validity;
  }

  private validate(id: string): NodeValidity {
    const known = this.results.get(id);
    if (known !== undefined) return known;
    if (this.path.includes(id)) return this.refuseCycle(id);
    const { node, nodeClass } = this.find(id);
    const errors: ValidationError[] = [];
    let isValid = true;
    for (const [name, spec] of Object.entries({ ...nodeClass.required, ...nodeClass.optional })) {
      if (!(name in node.inputs)) {
        if (name in nodeClass.required) {
          const info = { input_name: name };
          errors.push(validationError("required_input_missing", "Required input is missing", name, info));
        }
        continue;
      }
      const given = node.inputs[name];
      if (Array.isArray(given)) {
        const problem = this.checkLink(id, name, spec, nodeClass, given);
        if (problem === "upstream") isValid = false;
        else if (problem !== null) errors.push(problem);
      } else {
        const problem = this.checkLiteral(node, name, spec, nodeClass);
        if (problem !== null) errors.push(problem);
      }
    }
    const earlier = this.results.get(id)?.errors ?? [];
    const all = [...earlier, ...errors];
    return this.settle(id, { isValid: isValid && all.length === 0, errors: all });
  }

  private find(id: string): { node: GraphNode; nodeClass: NodeClass } {
    const node = this.graph[id];
    const nodeClass = node === undefined ? undefined : this.context.classes.get(node.class_type);
    if (node === undefined || nodeClass === undefined) throw new PythonError("KeyError", repr(id));
    return { node, nodeClass };
  }

  private refuseCycle(id: string): NodeValidity {
    const round = [...this.path.slice(this.path.indexOf(id)), id];
    const details = round.map((member) => `${member} (${this.graph[member]?.class_type})`).join(" -> ");
    const members = [...new Set(round)];
    for (const member of members) {
      const info = { node_id: member, cycle_nodes: members };
      const error = validationError("dependency_cycle", "Dependency cycle detected", details, info);
      this.settle(member, { isValid: false, errors: [error] });
    }
    return this.results.get(id) ?? { isValid: false, errors: [] };
  }

  /** Null when the link and all behind it is well; "upstream" when what it leads to is to blame. */
  private checkLink(
    id: string,
    name: string,
    spec: InputSpec,
    nodeClass: NodeClass,
    given: unknown[],
  ): ValidationError | "upstream" | null {
    const config = () => this.describe(spec, nodeClass);
    if (given.length !== 2) {
      const message = "Bad linked input, must be a length-2 list of [node_id, slot_index]";
      const info = { input_name: name, input_config: config(), received_value: given };
      return validationError("bad_linked_input", message, name, info);
    }
    const source = given[0];
    if (typeof source !== "string") throw new PythonError("KeyError", repr(source));
    const outputs = this.find(source).nodeClass.outputs;
    const slot = given[1];
    if (typeof slot !== "number")
      throw new PythonError("TypeError", "tuple indices must be integers or slices, not str");
    const received = outputs[slot]?.type;
    if (received === undefined) throw new PythonError("IndexError", "tuple index out of range");
    if (received !== spec.type) {
      const details = `${name}, received_type(${received}) mismatch input_type(${spec.type})`;
      const info = { input_name: name, input_config: config(), received_type: received, linked_node: given };
      return validationError("return_type_mismatch", "Return type mismatch between linked nodes", details, info);
    }
    this.path.push(id);
    try {
      return this.validate(source).isValid ? null : "upstream";
    } catch (exception) {
      const { type, message } = asPython(exception);
      const info = {
        input_name: name,
        input_config: config(),
        exception_message: message,
        exception_type: type,
        traceback: [],
        linked_node: given,
      };
      const kind = "exception_during_inner_validation";
      const error = validationError(kind, "Exception when validating inner node", message, info);
      this.settle(source, { isValid: false, errors: [error] });
      return "upstream";
    } finally {
      this.path.pop();
    }
  }

  private checkLiteral(node: GraphNode, name: string, spec: InputSpec, nodeClass: NodeClass): ValidationError | null {
    let value = node.inputs[name];
    if (typeof value === "object" && value !== null && "__value__" in value) value = value.__value__;
    const info = () => ({ input_name: name, input_config: this.describe(spec, nodeClass), received_value: value });
    try {
      if (spec.type === "INT") value = int(value);
      if (spec.type === "FLOAT") value = float(value);
      if (spec.type === "STRING") value = str(value);
      if (spec.type === "BOOLEAN") value = bool(value);
    } catch (exception) {
      const { message } = asPython(exception);
      const summary = `Failed to convert an input value to a ${spec.type} value`;
      const extra = { ...info(), exception_message: message };
      return validationError("invalid_input_type", summary, `${name}, ${str(value)}, ${message}`, extra);
    }
    node.inputs[name] = value;
    const validator = nodeClass.validators?.[name];
    if (validator !== undefined) {
      const verdict = validator(value, this.context.files);
      if (verdict === true) return null;
      const details = `${name} - ${verdict}`;
      const extra = { input_name: name };
      return validationError("custom_validation_failed", "Custom validation failed for node", details, extra);
    }
    const { min, max } = spec.config;
    if (typeof value === "number" && min !== undefined && value < min) {
      const message = `Value ${value} smaller than min of ${min}`;
      return validationError("value_smaller_than_min", message, name, info());
    }
    if (typeof value === "number" && max !== undefined && value > max) {
      return validationError("value_bigger_than_max", `Value ${value} bigger than max of ${max}`, name, info());
    }
    const options = spec.options?.(this.context.files);
    if (options === undefined || options.some((option) => option === value)) return null;
    // Long lists are not sent back.
    const isLong = options.length > 20;
    const list = isLong ? `(list of length ${options.length})` : repr(options);
    const extra = { ...info(), ...(isLong ? { input_config: null } : {}) };
    return validationError("value_not_in_list", "Value not in list", `${name}: ${repr(value)} not in ${list}`, extra);
  }

  private describe(spec: InputSpec, nodeClass: NodeClass): unknown[] {
    return describeInput(spec, nodeClass.isSchemaV3 ?? false, this.context.files);
  }
}

function asPython(exception: unknown): PythonError {
  if (exception instanceof PythonError) return exception;
  throw exception;
}

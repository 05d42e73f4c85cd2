/** What the engine says against a job, before it runs and while it runs, in words for the task's owner. */
import { EngineError } from "../driver.ts";
import { cleanMessage } from "../messages.ts";
import type { NodeErrors } from "./answers.ts";

/** Inputs whose value is a file on the engine: not in its list means that this server lacks it. */
const modelInputs: Record<string, string> = {
  ckpt_name: "checkpoint",
  lora_name: "LoRA",
  hypernetwork_name: "hypernetwork",
};

/** The error for a graph that was refused, or accepted only in part. `fallback` serves when no node is at fault. */
export function validationError(errors: NodeErrors, fallback: string): EngineError {
  const faults = Object.values(errors).flatMap((node) => node.errors);
  const missing = faults.find((fault) => fault.type === "value_not_in_list" && modelName(fault) !== undefined);
  if (missing) return new EngineError("model-missing", `The job's ${modelName(missing)} is not on this server`);
  const [fault] = faults;
  if (!fault) return new EngineError("bad-input", cleanMessage(fallback));
  const input = fault.extra_info?.input_name?.replaceAll("_", " ") ?? "job";
  return new EngineError("bad-input", cleanMessage(`The engine refuses the ${input}: ${fault.message || fault.type}`));
}

function modelName(fault: NodeErrors[string]["errors"][number]): string | undefined {
  return modelInputs[fault.extra_info?.input_name ?? ""];
}

/** The error for a run that broke; `details` is the data of its `execution_error` message. */
export function executionError(details: Record<string, unknown>): EngineError {
  const type = typeof details.exception_type === "string" ? details.exception_type : "";
  const message = typeof details.exception_message === "string" ? details.exception_message : "";
  // Class names and wording of torch on CUDA, ROCm, MPS and CPU.
  const outOfMemory = /OutOfMemory/i.test(type) || /out of memory|not enough memory|ALLOC_FAILED/i.test(message);
  if (outOfMemory) return new EngineError("out-of-memory", "The server ran out of memory", { cause: details });
  // Pictures are only looked into when they are loaded, and look the same to every server.
  if (type.endsWith("UnidentifiedImageError")) {
    return new EngineError("bad-input", "The engine cannot read one of the job's pictures", { cause: details });
  }
  const node = typeof details.node_type === "string" ? ` in ${details.node_type}` : "";
  const said = cleanMessage(message);
  return new EngineError("engine-failed", `The engine failed${node}${said ? `: ${said}` : ""}`, { cause: details });
}

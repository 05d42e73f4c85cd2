/** What the engine says against a job, in words for the task's owner. */
import { EngineError } from "../driver.ts";
import { refusal, wrongEngine } from "../http.ts";
import { cleanMessage } from "../messages.ts";
import { refused } from "./answers.ts";

/** The error for an answer that is no picture: FastAPI's list of faults, or an exception's class and text. */
export function refusedRequest(status: number, text: string): EngineError {
  const parsed = refused.safeParse(parseJson(text));
  if (!parsed.success) return status === 404 ? wrongEngine() : refusal(status);
  const { error = "", errors, detail } = parsed.data;
  const said = typeof errors === "string" && errors !== "" ? errors : typeof detail === "string" ? detail : "";
  if (status === 401 || status === 403) return refusal(status);
  if (status === 422)
    return new EngineError("bad-input", cleanMessage(`The engine refuses the job: ${faults(detail)}`));
  if (/OutOfMemory/i.test(error) || isOutOfMemory(said)) {
    return new EngineError("out-of-memory", "The server ran out of memory", { cause: parsed.data });
  }
  if (/Sampler not found/i.test(said)) return new EngineError("bad-input", "This engine lacks the job's scheduler");
  if (/Invalid encoded image/i.test(said)) {
    return new EngineError("bad-input", "The engine cannot read the picture to start from");
  }
  if (status < 500 && said === "") return refusal(status);
  return new EngineError("engine-failed", cleanMessage(`The engine failed: ${said || error || status}`), {
    cause: parsed.data,
  });
}

/** Wording of torch on CUDA, ROCm, MPS and CPU. */
export const isOutOfMemory = (message: string): boolean =>
  /out of memory|not enough memory|ALLOC_FAILED|OutOfMemory/i.test(message);

function faults(detail: unknown): string {
  if (!Array.isArray(detail)) return typeof detail === "string" ? detail : "a value is not valid";
  return detail
    .slice(0, 3)
    .map(({ loc, msg }) => `${Array.isArray(loc) ? loc.at(-1) : "a value"}: ${msg}`)
    .join("; ");
}

export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

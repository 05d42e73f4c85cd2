/** An answer that is no success, as the API's `application/problem+json` tells it. */
import type { Fault, ProblemCode } from "../problems.ts";

export class ProblemError extends Error {
  override readonly name = "ProblemError";
  /** Stable, for programs; `unknown` when something else than the API answered (a proxy). */
  readonly code: ProblemCode | "unknown";
  readonly status: number;
  /** Every fault of the input. */
  readonly errors: readonly Fault[];
  /** To be named when it is reported. */
  readonly requestId: string | null;
  /** Seconds after which it may be tried again, when the answer says so. */
  readonly retryAfter: number | null;

  constructor(answer: Pick<ProblemError, "code" | "status" | "errors" | "requestId" | "retryAfter">, detail: string) {
    super(detail);
    this.code = answer.code;
    this.status = answer.status;
    this.errors = answer.errors;
    this.requestId = answer.requestId;
    this.retryAfter = answer.retryAfter;
  }
}

export async function toProblemError(response: Response): Promise<ProblemError> {
  const text = await response.text();
  let body: { code?: ProblemCode; detail?: string; errors?: Fault[] } = {};
  try {
    body = JSON.parse(text);
  } catch {
    // Not ours: the status has to do.
  }
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const answer = {
    code: body.code ?? "unknown",
    status: response.status,
    errors: body.errors ?? [],
    requestId: response.headers.get("x-request-id"),
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  } as const;
  return new ProblemError(answer, body.detail ?? `${response.status} ${response.statusText}`);
}

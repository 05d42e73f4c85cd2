/** An answer that is no success, as the API's `application/problem+json` tells it. */
import type { Fault, ProblemCode } from "../problems.ts";

export class ProblemError extends Error {
  override readonly name = "ProblemError";
  constructor(
    /** Stable, for programs; `unknown` when something else than the API answered (a proxy). */
    readonly code: ProblemCode | "unknown",
    readonly status: number,
    detail: string,
    /** Every fault of the input. */
    readonly errors: readonly Fault[] = [],
    /** To be named when it is reported. */
    readonly requestId: string | null = null,
    /** Seconds after which it may be tried again, when the answer says so. */
    readonly retryAfter: number | null = null,
  ) {
    super(detail);
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
  return new ProblemError(
    body.code ?? "unknown",
    response.status,
    body.detail ?? `${response.status} ${response.statusText}`,
    body.errors,
    response.headers.get("x-request-id"),
    Number.isNaN(seconds) ? null : seconds,
  );
}

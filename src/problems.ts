/** Every error the API can answer, in one closed table, as RFC 9457 `application/problem+json`. */

export const problemTable = {
  "malformed-json": [400, "The body is not valid JSON"],
  "invalid-query": [400, "The query is not valid"],
  "idempotency-key-invalid": [400, "The Idempotency-Key is malformed"],
  "idempotency-key-refused": [400, "No Idempotency-Key is accepted here"],
  "precondition-refused": [400, "No If-Match is accepted here"],
  "token-invalid": [401, "The token is wrong, expired or revoked"],
  "token-required": [401, "This needs a token"],
  "login-failed": [401, "The email or the password is wrong"],
  "origin-forbidden": [403, "This origin may not use the API"],
  forbidden: [403, "You may not do this"],
  "not-found": [404, "There is no such thing here"],
  "method-not-allowed": [405, "The method is not allowed here"],
  conflict: [409, "This conflicts with the present state"],
  "email-taken": [409, "The email address is taken"],
  "name-taken": [409, "The name is taken"],
  "last-admin": [409, "The last admin must stay"],
  "in-use": [409, "This is in use"],
  "training-under-way": [409, "The model is being trained"],
  "model-not-ready": [409, "The model is not ready for use"],
  "task-not-retryable": [409, "The task cannot be tried again"],
  "session-revoked": [409, "A revoked session stays revoked"],
  "in-progress": [409, "The same request is under way"],
  "upload-incomplete": [409, "The upload is not complete"],
  "upload-offset": [409, "The upload goes on elsewhere"],
  "precondition-failed": [412, "The object has changed"],
  "too-large": [413, "The body is too large"],
  "quota-exceeded": [413, "The storage quota is used up"],
  "unsupported-media-type": [415, "The body's type is not supported"],
  invalid: [422, "The request is well formed but invalid"],
  "idempotency-key-reused": [422, "The Idempotency-Key belongs to another request"],
  "too-many-requests": [429, "Too many requests"],
  "too-many-waiting": [429, "Too many of your tasks wait already"],
  internal: [500, "Something went wrong on our side"],
  "storage-unavailable": [503, "The file storage does not answer"],
  "database-unavailable": [503, "The database does not answer"],
} as const satisfies Record<string, readonly [number, string]>;

export type ProblemCode = keyof typeof problemTable;

/** One fault of the input: where (a JSON pointer into the body, or a query parameter) and what. */
export type Fault = { pointer: string; detail: string } | { parameter: string; detail: string };

export interface ProblemOptions {
  /** For the caller. Never SQL, a stack or a secret. */
  detail?: string;
  errors?: Fault[];
  /** Extra headers of the answer: `Allow`, `Retry-After`. */
  headers?: Record<string, string>;
  /** For the log; it never leaves the process. */
  cause?: unknown;
}

/** An error that the caller is told about. Anything else thrown is a bug and answered as a bare 500. */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly status: number;
  constructor(
    readonly code: ProblemCode,
    readonly options: ProblemOptions = {},
  ) {
    super(options.detail ?? problemTable[code][1], options.cause === undefined ? undefined : { cause: options.cause });
    this.status = problemTable[code][0];
  }

  /** The body of the answer. */
  toJSON(): Record<string, unknown> {
    const [status, title] = problemTable[this.code];
    return {
      type: `urn:atelier:problem:${this.code}`,
      title,
      status,
      detail: this.message,
      code: this.code,
      ...(this.options.errors ? { errors: this.options.errors } : {}),
    };
  }
}

/** Whether an error, one of the database's included, is answered as this problem. */
export function isProblem(error: unknown, code: ProblemCode): boolean {
  return (error instanceof Problem ? error : problemOfDatabase(error))?.code === code;
}

/** A 422 that names one fault of the body. */
export function invalid(pointer: string, detail: string): Problem {
  return new Problem("invalid", { detail, errors: [{ pointer, detail }] });
}

export const serverInUse = () => new Problem("in-use", { detail: "The server is working; drain it first (closing)" });

/** Broken constraints that a caller can cause, so that no query runs just to ask first. */
const constraints: Record<string, (value: string | null) => Problem> = {
  users_email_unique: () => new Problem("email-taken"),
  users_last_admin: () => new Problem("last-admin"),
  tags_name_unique: (name) => new Problem("name-taken", { detail: `The name ${name ?? ""} is taken` }),
  servers_name_unique: () => new Problem("name-taken"),
  servers_address_unique: () => new Problem("conflict", { detail: "Another server has this ip and port" }),
  leases_server_id_fkey: serverInUse,
  leases_source_id_fkey: serverInUse,
  tasks_one_training: () => new Problem("training-under-way"),
};

const connectionErrors = /^(ECONNREFUSED|ECONNRESET|ENOTFOUND|EPIPE|CONNECTION_|CONNECT_TIMEOUT|57P0|08|53300)/;

/** The problem behind an error of the database, or null when it is a bug. */
export function problemOfDatabase(error: unknown): Problem | null {
  const { code, constraint_name, detail } = (error ?? {}) as Record<string, string | undefined>;
  const known = constraint_name === undefined ? undefined : constraints[constraint_name];
  // `Key (lower(name))=(forest) already exists.`: what the caller wrote, which tells the one of a bulk from the others.
  if (known) return known(/=\((.*)\) already exists/s.exec(detail ?? "")?.[1] ?? null);
  // References are locked when they are checked, so this is a row that has been dropped or taken up in between.
  if (code === "23503") {
    return new Problem("conflict", {
      detail: "Something refers to this, or this to something, that has changed",
      cause: error,
    });
  }
  if (typeof code === "string" && connectionErrors.test(code)) {
    return new Problem("database-unavailable", { headers: { "Retry-After": "2" }, cause: error });
  }
  return null;
}

/** ComfyUI is a Python program and its errors show it: exception names and `repr` texts that clients may read. */

/** An exception as the engine reports it: `exception_type` and `exception_message` of an `execution_error`. */
export class PythonError extends Error {
  override readonly name = "PythonError";
  constructor(
    /** The full type name, such as `ValueError` or `torch.OutOfMemoryError`. */
    readonly type: string,
    message: string,
  ) {
    super(message);
  }
}

/** Raised at a progress tick or before a node when somebody asked for an interrupt. No failure. */
export class InterruptError extends Error {
  override readonly name = "InterruptError";
}

/** `repr(value)` of a value that came as JSON. */
export function repr(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") {
    const quote = value.includes("'") && !value.includes('"') ? '"' : "'";
    return quote + value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll(quote, `\\${quote}`) + quote;
  }
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([key, inner]) => `${repr(key)}: ${repr(inner)}`)
      .join(", ")}}`;
  }
  return String(value);
}

/** `str(value)`: like `repr`, but a text is itself. */
export function str(value: unknown): string {
  return typeof value === "string" ? value : repr(value);
}

/** `int(value)`. @throws PythonError "ValueError" or "TypeError" */
export function int(value: unknown): number {
  if (typeof value === "number") return Math.trunc(value);
  if (typeof value === "boolean") return value ? 1 : 0;
  if (typeof value === "string") {
    if (/^\s*[+-]?\d+(_\d+)*\s*$/.test(value)) return Number(value.replaceAll("_", ""));
    throw new PythonError("ValueError", `invalid literal for int() with base 10: ${repr(value)}`);
  }
  const message = "int() argument must be a string, a bytes-like object or a real number";
  throw new PythonError("TypeError", `${message}, not '${typeName(value)}'`);
}

/** `float(value)`. @throws PythonError "ValueError" or "TypeError" */
export function float(value: unknown): number {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return value ? 1 : 0;
  if (typeof value === "string") {
    if (/^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value)) return Number(value);
    throw new PythonError("ValueError", `could not convert string to float: ${repr(value)}`);
  }
  throw new PythonError("TypeError", `float() argument must be a string or a real number, not '${typeName(value)}'`);
}

/** `bool(value)`: note that the text "false" is true. */
export function bool(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === "object" && value !== null) return Object.keys(value).length > 0;
  return Boolean(value);
}

function typeName(value: unknown): string {
  if (value === null || value === undefined) return "NoneType";
  return Array.isArray(value) ? "list" : "dict";
}

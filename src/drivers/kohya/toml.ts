/**
 * The little TOML that we write. Its strings are words of our own, never what a user or a host has named: Python's `toml`
 * 0.10, by which sd-scripts reads it, gets quotes and escapes wrong in several ways (`"\"\"\""`, `"\\u0041"`), so that no
 * way of quoting would be safe.
 */
export type TomlValue = string | number | boolean;

/** `key = value` lines. @throws TypeError for a string that would need quoting, and a number that is none */
export function tomlLines(values: Record<string, TomlValue>): string {
  return Object.entries(values)
    .map(([key, value]) => `${key} = ${toToml(value)}\n`)
    .join("");
}

function toToml(value: TomlValue): string {
  if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError("a setting must be a finite number");
  if (typeof value !== "string") return String(value);
  if (!/^[\w./-]+$/.test(value)) throw new TypeError("a setting must be a plain word");
  return `"${value}"`;
}

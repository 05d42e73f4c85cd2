/** What engines say, made fit for a task's owner. */

/** First line of what an engine says, without paths of its host, at most 300 characters. */
export function cleanMessage(message: string): string {
  const line = message.split("\n").find((text) => text.trim() !== "") ?? "";
  const withoutPaths = line
    .trim()
    // Drive paths, UNC paths and absolute or home paths of two parts and more; "and/or" and "1/2" stay.
    .replace(/(?:[A-Za-z]:[\\/]|\\\\)[^\s'":,;]+/g, "…")
    .replace(/(?<![\w.])~?(?:\/[^\s/'":,;]+){2,}\/?/g, "…");
  return withoutPaths.length > 300 ? `${withoutPaths.slice(0, 299)}…` : withoutPaths;
}

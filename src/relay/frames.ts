/** What goes over a socket: JSON text frames. */

export type Frame =
  | { type: "snapshot"; name: string; id: number | string; version: number; data: Record<string, unknown> }
  | { type: "update"; name: string; id: number | string; version: number; data: Record<string, unknown> }
  | { type: "delete"; name: string; id: number | string };

/** The fields whose values differ. Values are JSON, so their text tells. */
export function changedFields(
  before: Record<string, unknown>,
  after: Record<string, unknown>,
): Record<string, unknown> | null {
  const changed = Object.entries(after).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]),
  );
  return changed.length > 0 ? Object.fromEntries(changed) : null;
}

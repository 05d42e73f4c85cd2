/** What is told of an object or of a list: JSON frames. */

type Id = number | string;
type Data = Record<string, unknown>;

/** Of a single object. */
export type Frame =
  | { type: "snapshot"; name: string; id: Id; version: number; data: Data }
  | { type: "update"; name: string; id: Id; version: number; data: Data }
  | { type: "delete"; name: string; id: Id };

/** Of a list: the page as GET answers it, then the objects that meet its conditions, come to meet them, or cease to. */
export type ListFrame =
  | { type: "snapshot"; name: string; data: Data }
  | { type: "create"; name: string; id: Id; version: number; data: Data }
  | { type: "update"; name: string; id: Id; version: number; data: Data }
  | { type: "delete"; name: string; id: Id };

/** A frame on its way: serialised once, however many it goes to. */
export interface Message {
  type: Frame["type"] | ListFrame["type"];
  /** Null where a frame speaks of no single version. */
  version: number | null;
  text: string;
}

export function toMessage(frame: Frame | ListFrame): Message {
  return { type: frame.type, version: "version" in frame ? frame.version : null, text: JSON.stringify(frame) };
}

/** An object as one view shows it: kept as text, which is a fraction of what the values take. */
export interface State {
  version: number;
  text: string;
}

/** The same frame as `toMessage` makes of the object's values. */
export function toSnapshot(name: string, id: Id, { version, text }: State): Message {
  const head = JSON.stringify({ type: "snapshot", name, id, version });
  return { type: "snapshot", version, text: `${head.slice(0, -1)},"data":${text}}` };
}

/** The fields whose values differ. Values are JSON, so their text tells. */
export function changedFields(before: Data, after: Data): Data | null {
  const changed = Object.entries(after).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]),
  );
  return changed.length > 0 ? Object.fromEntries(changed) : null;
}

/** Whether an update can tell the difference: it cannot take fields away, which a view that narrows does. */
export function isUpdatable(before: Data, after: Data): boolean {
  return Object.keys(before).every((field) => field in after);
}

/**
 * Follows a whole list over its WebSocket: the page first, then every object that meets the conditions, comes to meet
 * them, or ceases to, wherever in the order it lies.
 */
import type { ListFrame } from "../relay/frames.ts";
import type { Transport } from "./http.ts";
import type { Page } from "./resource.ts";
import { listen, type SocketClass, type WatchOptions } from "./watch.ts";

type Id = number | string;

/** `update` gives the whole object, as `create` does. */
export type ListChange<T> =
  /** First, and again when changes may have been missed: what was known before is to be forgotten. */
  | { type: "snapshot"; page: Page<T> }
  | { type: "create" | "update"; id: Id; version: number; object: T }
  | { type: "delete"; id: Id };

interface Known<T> {
  /** Null for what a page showed: it does not say. */
  version: number | null;
  object: T;
}

/**
 * Yields every change; of an object that changes while the reader is slow only the last. Ends by the signal alone.
 *
 * @throws ProblemError when the list may not be watched: invalid-query, token-invalid …
 */
export function watchList<T extends { id: Id }>(
  transport: Transport,
  SocketClass: SocketClass | undefined,
  path: string,
  options?: WatchOptions,
): AsyncGenerator<ListChange<T>, void, void> {
  const known = new Map<Id, Known<T>>();
  let page: Page<T> | null = null;
  /** Not yielded yet, by object. */
  const changes = new Map<Id, ListChange<T>>();

  function put(change: ListChange<T> & { id: Id }): void {
    // An object that the reader has not heard of yet is still new to it.
    const isNew = changes.get(change.id)?.type === "create" && change.type === "update";
    changes.delete(change.id);
    changes.set(change.id, isNew ? { ...change, type: "create" } : change);
  }

  return listen<ListFrame, ListChange<T>>(transport, SocketClass, path, options, {
    take(frame) {
      if (frame.type === "snapshot") {
        page = frame.data as unknown as Page<T>;
        known.clear();
        changes.clear();
        for (const object of page.list) known.set(object.id, { version: null, object });
        return;
      }
      const { id } = frame;
      if (frame.type === "delete") {
        known.delete(id);
        put({ type: "delete", id });
        return;
      }
      const before = known.get(id);
      if (frame.version < (before?.version ?? 0) || (frame.type === "update" && !before)) return;
      const object = (frame.type === "create" ? frame.data : { ...before?.object, ...frame.data }) as T;
      known.set(id, { version: frame.version, object });
      put({ type: frame.type, id, version: frame.version, object });
    },
    isLast: () => false,
    next() {
      if (page) {
        const snapshot = { type: "snapshot" as const, page };
        page = null;
        return snapshot;
      }
      for (const [id, change] of changes) {
        changes.delete(id);
        return change;
      }
      return null;
    },
  });
}

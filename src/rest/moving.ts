/** What an object shows that changes without a version: live fields that have a value, and signed URLs. */
import type { Resource } from "./define.ts";

const liveFields = new WeakMap<Resource, string[]>();

/**
 * A live field without a value gets one by a change of the row, which is announced.
 *
 * @param text the object as JSON
 */
export function isMoving(resource: Resource, text: string): boolean {
  let fields = liveFields.get(resource);
  if (!fields) {
    fields = Object.entries(resource.fields).flatMap(([name, field]) => (field.live ? [name] : []));
    liveFields.set(resource, fields);
  }
  if (fields.length === 0) return false;
  const data = JSON.parse(text);
  return fields.some((name) => data[name] != null);
}

/** Whether it shows a URL that ends to work. */
export function isSigned(text: string): boolean {
  return text.includes("&signature=");
}

/** What an object shows that changes without a version: live fields that have a value, and signed URLs. */
import type { Resource } from "./define.ts";

type Judge = (object: Record<string, unknown>) => boolean;
const judges = new WeakMap<Resource, Judge[]>();

/** @param text the object as JSON */
export function isMoving(resource: Resource, text: string): boolean {
  let known = judges.get(resource);
  if (!known) {
    known = Object.entries(resource.fields).flatMap(([name, { live }]): Judge[] => {
      if (!live) return [];
      return [live === true ? (object) => object[name] != null : live];
    });
    judges.set(resource, known);
  }
  if (known.length === 0) return false;
  const object = JSON.parse(text);
  return known.some((judge) => judge(object));
}

/** Whether it shows a URL that ends to work. */
export function isSigned(text: string): boolean {
  return text.includes("&signature=");
}

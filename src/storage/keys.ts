/** What may be a key: the same rule in both stores, so that one can be copied into the other. */

/**
 * Segments of letters, digits, `.`, `_` and `-`, none of them beginning with a dot: so no `..`, no empty segment, no
 * absolute path, and the store's own dotted files cannot be reached. 200 bytes a segment leaves room for suffixes
 * within a file name's 255.
 */
const pattern = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(\/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}){0,9}$/;

/** Whether the store could hold an object of this key. What could not be stored is simply not there. */
export function isKey(key: string): boolean {
  return pattern.test(key);
}

/** @throws RangeError: keys are made by us, so a wrong one in a write is a bug, not a caller's error. */
export function checkKey(key: string): void {
  if (!isKey(key)) throw new RangeError(`not a storage key: ${JSON.stringify(key.slice(0, 200))}`);
}

/** Whether it is of the form that our objects have: a bucket may hold others, which are none of our business. */
export function isOwnKey(key: string): boolean {
  return /^([A-Za-z0-9_-]{24}\.[a-z]+(\.\d+\.webp)?|pending\/[A-Za-z0-9_-]{24}\.upload(\/.+)?)$/.test(key);
}

/** The longest edges, in pixels: for a page, and for a grid. */
export const thumbnailEdges = [512, 256] as const;
export type ThumbnailEdge = (typeof thumbnailEdges)[number];

/** A thumbnail has no row of its own: its key is the picture's and its size, `{key}.256.webp`. */
export function thumbnailKey(key: string, edge: ThumbnailEdge): string {
  return `${key}.${edge}.webp`;
}

/** The picture that a key belongs to, by the key alone, and the size it asks for: null for the picture itself. */
export function readThumbnailKey(key: string): { picture: string; edge: ThumbnailEdge | null } {
  for (const edge of thumbnailEdges) {
    const ending = thumbnailKey("", edge);
    if (key.endsWith(ending)) return { picture: key.slice(0, -ending.length), edge };
  }
  return { picture: key, edge: null };
}

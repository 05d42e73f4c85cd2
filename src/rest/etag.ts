/** Conditional reads, as RFC 9110 has them. */

/**
 * Whether `If-None-Match` names this ETag. The comparison is weak: a proxy that compresses marks our tags as `W/`, and
 * clients give them back so.
 */
export function matchesNone(header: string | null | undefined, etag: string): boolean {
  const tags = header?.split(",").map((tag) => tag.trim().replace(/^W\//, "")) ?? [];
  return tags.includes(etag) || tags.includes("*");
}

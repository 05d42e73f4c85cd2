/**
 * What the API does beside its definitions, at every path alike. The document cannot see it in them, so it is said
 * here, and `test/rest/openapi.test.ts` holds each line against the running app.
 */
export const promises = {
  /** `Idempotency-Key` on every POST but log-in. */
  idempotency: true,
  /** 429 with `Retry-After`, and the RateLimit headers on every answer. */
  rateLimits: true,
};

export type Promises = typeof promises;

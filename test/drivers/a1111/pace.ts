/** Polling for tests: an engine on this machine answers within a millisecond. */
export const pace = { firstMs: 4, mostMs: 16, silentMs: 100, acceptedMs: 3_000, listedMs: 50 };

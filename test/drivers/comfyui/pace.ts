/** Polling for tests: an engine on this machine answers within a millisecond. */
export const pace = { firstMs: 5, mostMs: 25, silentMs: 50 };

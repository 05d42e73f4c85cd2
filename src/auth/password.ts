/** Passwords as argon2id strings. */
import { availableParallelism } from "node:os";
import { hash, verify } from "@node-rs/argon2";
import { Problem } from "../problems.ts";
import { Gate } from "./gate.ts";

// Hashing runs in threads off the event loop, but as many at once as there are cores: more would only stall the rest.
// Past a bounded queue, callers are told to come back rather than to wait without end.
const gate = new Gate(availableParallelism(), 200);

/** How often this process has hashed: what log-ins cost is counted in these. */
export const hashes = { count: 0 };

async function withSlot<T>(work: () => Promise<T>): Promise<T> {
  if (!(await gate.enter())) {
    throw new Problem("too-many-requests", { detail: "Too many log-ins at once", headers: { "Retry-After": "2" } });
  }
  try {
    hashes.count += 1;
    return await work();
  } finally {
    gate.leave();
  }
}

export function hashPassword(password: string): Promise<string> {
  return withSlot(() => hash(password));
}

/** Of a password that nobody has, with the parameters of `hash`; made once and written down, so that no request pays. */
const dummy = "$argon2id$v=19$m=19456,t=2,p=1$lk5hlrpdu19+BSJVfVduXA$/Et+LhRYYU/RMQs2E1XOWoPk/6WCA+BxuuajSi5gRto";

/**
 * @param hashed null for an unknown user: the same work is done against a fixed dummy hash, so that neither the
 *   answer nor its duration tells whether the user exists
 */
export async function verifyPassword(hashed: string | null, password: string): Promise<boolean> {
  const matches = await withSlot(() => verify(hashed ?? dummy, password));
  return hashed !== null && matches;
}

/** Passwords as argon2id strings. */
import { availableParallelism } from "node:os";
import { hash, verify } from "@node-rs/argon2";
import { Problem } from "../problems.ts";

// Hashing runs in threads off the event loop, but as many at once as there are cores: more would only stall the rest.
// Past a bounded queue, callers are told to come back rather than to wait without end.
const slots = availableParallelism();
const maxWaiting = 200;
let running = 0;
const waiting: (() => void)[] = [];

async function withSlot<T>(work: () => Promise<T>): Promise<T> {
  if (running >= slots) {
    if (waiting.length >= maxWaiting) {
      throw new Problem("too-many-requests", {
        detail: "Too many log-ins at once",
        headers: { "Retry-After": "2" },
      });
    }
    await new Promise<void>((go) => waiting.push(go)); // the slot is handed over, `running` stays
  } else {
    running += 1;
  }
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running -= 1;
  }
}

export function hashPassword(password: string): Promise<string> {
  return withSlot(() => hash(password));
}

let dummy: Promise<string> | null = null;

/**
 * @param hashed null for an unknown user: the same work is done against a fixed dummy hash, so that neither the
 *   answer nor its duration tells whether the user exists
 */
export async function verifyPassword(hashed: string | null, password: string): Promise<boolean> {
  dummy ??= hashPassword("nobody has this password");
  const against = hashed ?? (await dummy);
  const matches = await withSlot(() => verify(against, password));
  return hashed !== null && matches;
}

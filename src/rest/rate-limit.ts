/**
 * Requests a minute per caller, judged before anything else. Counted in the memory of each API process, since a limit
 * that asked the database would cost more than most of what it guards: behind N processes a caller may do up to N times
 * as much. Guesses at passwords are counted elsewhere, exactly (src/auth/throttle.ts).
 */
import type { MiddlewareHandler } from "hono";
import { networkOf } from "../auth/address.ts";
import { hashToken } from "../auth/session.ts";
import { Problem } from "../problems.ts";
import type { Env } from "./http.ts";

/** Requests a minute; 0 is no limit. */
export interface RateLimits {
  reads: number;
  writes: number;
}

/** Callers remembered; past it those go that were quiet for longest. Some 10 MB at most. */
const maxCallers = 50_000;
const minuteMs = 60_000;

/** A map that forgets what was used longest ago. */
class Recent<V> {
  private readonly entries = new Map<string, V>();

  get(key: string): V | undefined {
    return this.entries.get(key);
  }

  set(key: string, value: V): void {
    this.entries.delete(key);
    this.entries.set(key, value);
    if (this.entries.size > maxCallers) this.entries.delete(this.entries.keys().next().value as string);
  }

  delete(key: string): void {
    this.entries.delete(key);
  }
}

/**
 * A bucket for each caller, which a minute fills: `limit` requests at once, then as many as flow in. Kept as one number
 * (the moment when it is full again, known as GCRA), so that nothing has to run between requests.
 */
export function createBucket(limit: number) {
  const fullAt = new Recent<number>();
  const dropMs = minuteMs / limit;
  return {
    /** @returns what is left and in how many seconds it is full again; `waitSeconds` over 0 when there was nothing */
    take(caller: string, now: number): { remaining: number; fullSeconds: number; waitSeconds: number } {
      const before = Math.max(fullAt.get(caller) ?? 0, now);
      const after = before + dropMs;
      const overMs = after - now - minuteMs;
      // Rounding must not take the last drop of a full bucket.
      const isRefused = overMs > 1e-6;
      const full = isRefused ? before : after;
      if (!isRefused) fullAt.set(caller, full);
      return {
        remaining: Math.max(0, Math.floor((minuteMs - (full - now)) / dropMs + 1e-6)),
        fullSeconds: Math.ceil((full - now) / 1000),
        waitSeconds: isRefused ? Math.max(1, Math.ceil(overMs / 1000)) : 0,
      };
    },
  };
}

/**
 * Refuses callers that ask too often, and tells the others what is left (draft-ietf-httpapi-ratelimit-headers). A caller
 * is the user behind a token that was seen to be good, else the address: so a user's processes share one limit, and
 * tokens that are only guessed count for where they come from.
 */
export function limitRates({ reads, writes }: RateLimits, now: () => number = Date.now) {
  const policies = {
    reads: reads > 0 ? { limit: reads, bucket: createBucket(reads) } : null,
    writes: writes > 0 ? { limit: writes, bucket: createBucket(writes) } : null,
  };
  const users = new Recent<number>();

  const middleware: MiddlewareHandler<Env> = async (c, next) => {
    const name = ["GET", "HEAD", "OPTIONS"].includes(c.req.method) ? "reads" : "writes";
    const policy = policies[name];
    if (!policy) return next();
    const token = tokenOf(c.req.raw.headers);
    const key = token === null ? null : hashToken(token).toString("base64");
    const userId = key === null ? undefined : users.get(key);
    const caller = userId === undefined ? networkOf(c.get("address")) : `user ${userId}`;
    const { remaining, fullSeconds, waitSeconds } = policy.bucket.take(caller, now());
    const headers = {
      "RateLimit-Policy": `"${name}";q=${policy.limit};w=60`,
      RateLimit: `"${name}";r=${remaining};t=${fullSeconds}`,
    };
    if (waitSeconds > 0) {
      const detail = `Over ${policy.limit} ${name} a minute; try again in ${waitSeconds} s`;
      throw new Problem("too-many-requests", { detail, headers: { ...headers, "Retry-After": String(waitSeconds) } });
    }
    await next();
    const viewer = c.get("viewer")?.id;
    if (key !== null && viewer != null) users.set(key, viewer);
    if (key !== null && c.res.status === 401) users.delete(key);
    for (const [header, value] of Object.entries(headers)) c.res.headers.set(header, value);
  };
  return middleware;
}

/** As `readToken`, but what is no token is nobody's fault yet. */
function tokenOf(headers: Headers): string | null {
  return /^Bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1] ?? headers.get("token");
}

/** How many connections one user and one address may hold open in this process. */
import { networkOf } from "../auth/address.ts";
import { Problem } from "../problems.ts";

/** 0 is no limit. */
export interface SocketLimits {
  perUser: number;
  perAddress: number;
}

export interface Places {
  /** @returns gives the place back @throws Problem "too-many-requests" */
  takeForAddress(address: string): () => void;
  takeForUser(userId: number): () => void;
}

export function createPlaces({ perUser, perAddress }: SocketLimits): Places {
  const taken = new Map<string, number>();
  function take(holder: string, limit: number, whose: string): () => void {
    const count = taken.get(holder) ?? 0;
    if (limit > 0 && count >= limit) {
      throw new Problem("too-many-requests", {
        detail: `${whose} holds ${limit} connections open already`,
        headers: { "Retry-After": "10" },
      });
    }
    taken.set(holder, count + 1);
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      const rest = (taken.get(holder) ?? 1) - 1;
      if (rest > 0) taken.set(holder, rest);
      else taken.delete(holder);
    };
  }
  return {
    takeForAddress: (address) => take(`address ${networkOf(address)}`, perAddress, "Your address"),
    takeForUser: (userId) => take(`user ${userId}`, perUser, "The user"),
  };
}

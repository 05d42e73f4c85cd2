/** How many connections one user and one address may hold open in this process. */
import { networkOf } from "../auth/address.ts";
import { Problem } from "../problems.ts";

/** 0 is no limit. */
export interface SocketLimits {
  perUser: number;
  perAddress: number;
}

export type Places = ReturnType<typeof createPlaces>;

/** Who holds connections open: a user or an address, shared by all of them. */
class Holder {
  count = 0;

  constructor(
    private readonly all: Map<string, Holder>,
    private readonly name: string,
  ) {}

  take(): void {
    this.all.set(this.name, this);
    this.count += 1;
  }

  free(): void {
    this.count -= 1;
    if (this.count === 0) this.all.delete(this.name);
  }
}

/** The places of one connection. */
export class Stay {
  private user: Holder | null = null;

  constructor(private address: Holder | null) {}

  addUser(user: Holder): void {
    this.user = user;
  }

  /** Gives the places back, however often it is called. */
  leave(): void {
    this.address?.free();
    this.user?.free();
    this.address = null;
    this.user = null;
  }
}

export function createPlaces({ perUser, perAddress }: SocketLimits) {
  const holders = new Map<string, Holder>();
  function take(name: string, limit: number, whose: string): Holder {
    const holder = holders.get(name) ?? new Holder(holders, name);
    if (limit > 0 && holder.count >= limit) {
      throw new Problem("too-many-requests", {
        detail: `${whose} holds ${limit} connections open already`,
        headers: { "Retry-After": "10" },
      });
    }
    holder.take();
    return holder;
  }
  return {
    /** @throws Problem "too-many-requests" */
    enter: (address: string): Stay => new Stay(take(`address ${networkOf(address)}`, perAddress, "Your address")),
    /** @throws Problem "too-many-requests" */
    enterUser: (stay: Stay, userId: number): void => stay.addUser(take(`user ${userId}`, perUser, "The user")),
  };
}

/** Where a request comes from: the socket's other end, or whom a trusted proxy names. */
import ipaddr from "ipaddr.js";

type Address = ipaddr.IPv4 | ipaddr.IPv6;

/** Whether `text` can be listed in TRUSTED_PROXIES: an address, or a network as `10.0.0.0/8`. */
export function isNetwork(text: string): boolean {
  return ipaddr.isValidCIDR(text) || ipaddr.isValid(text);
}

/**
 * Makes the reader of callers' addresses. Each hop appends whom it heard to `X-Forwarded-For`, so the list is read from
 * the right as long as those who speak are trusted: what stands further left is anybody's claim.
 *
 * @param trustedProxies addresses and networks
 * @returns the address in its shortest form, IPv4 also where a socket maps it into IPv6; empty without a socket
 */
export function createAddressReader(trustedProxies: string[]) {
  const networks = trustedProxies.map((text) => {
    if (ipaddr.isValidCIDR(text)) return ipaddr.parseCIDR(text);
    const address = ipaddr.process(text);
    return [address, address.kind() === "ipv4" ? 32 : 128] as [Address, number];
  });
  const isTrusted = (address: Address) =>
    networks.some(([network, bits]) => network.kind() === address.kind() && address.match([network, bits] as never));

  return (socketAddress: string | undefined, forwardedFor: string | null | undefined): string => {
    let caller = parse(socketAddress ?? "");
    if (!caller) return "";
    const hops = (forwardedFor ?? "").split(",");
    while (hops.length > 0 && isTrusted(caller)) {
      const next = parse(hops.pop() ?? "");
      // What is no address was not written by a proxy that works: the last one who spoke has to answer for it.
      if (!next) break;
      caller = next;
    }
    return caller.toString();
  };
}

/** Parsing takes longer than all else about an address, and the same few come again and again. */
const maxKnown = 10_000;
const known = new Map<string, Address>();

function parse(text: string): Address | null {
  const address = known.get(text) ?? readText(text);
  // What is none may be of any length, and is not kept.
  if (address && !known.has(text)) {
    if (known.size >= maxKnown) known.clear();
    known.set(text, address);
  }
  return address;
}

/** Some proxies write `192.0.2.1:4711` or `[2001:db8::1]:4711`. */
function readText(text: string): Address | null {
  const bare = text.trim().replace(/^\[(.*)\](:\d+)?$/, "$1");
  const address = /^[\d.]+:\d+$/.test(bare) ? bare.replace(/:\d+$/, "") : bare;
  // `isValid` takes 0177.1 and the like for IPv4; nobody who forwards an address writes it so.
  if (!ipaddr.IPv6.isValid(address) && !ipaddr.IPv4.isValidFourPartDecimal(address)) return null;
  return ipaddr.process(address);
}

/** What shares one limit: an IPv4 address, or the /64 of an IPv6 one, since that much is anybody's for the asking. */
export function networkOf(address: string): string {
  if (!ipaddr.IPv6.isValid(address)) return address;
  const parts = ipaddr.IPv6.parse(address).parts.slice(0, 4);
  return `${parts.map((part) => part.toString(16)).join(":")}::/64`;
}

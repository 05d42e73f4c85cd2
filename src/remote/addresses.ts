/** Which addresses may be fetched from on a user's word: public ones only. */
import ipaddr from "ipaddr.js";

/**
 * Whether an address is global unicast, so that anyone on the internet reaches the same host under it. On ipaddr.js,
 * which knows IANA's special-purpose registries; what it does not parse is not public.
 */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address) || address.includes("%")) return false;
  const parsed = ipaddr.parse(address);
  if (parsed.range() !== "unicast") return false;
  if (parsed.kind() === "ipv4") return ipaddr.IPv4.isValidFourPartDecimal(address);
  // Only 2000::/3 is given out: outside it ipaddr.js still calls site-local and IPv4-compatible addresses unicast.
  return ipaddr.IPv6.parse(address).match(...ipaddr.IPv6.parseCIDR("2000::/3"));
}

/**
 * Whether a host of an accepted URL is already by its spelling one that we never fetch from: `localhost`, or an address
 * that is not public, in any form that URLs fold (`0x7f000001`, `127.1`, `[::ffff:127.0.0.1]`). Names are judged only
 * when they are fetched, by what they resolve to.
 *
 * @param host without a port; brackets around IPv6 do not matter
 */
export function isForbiddenHost(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  const url = URL.parse(`http://${bare.includes(":") ? `[${bare}]` : bare}/`);
  if (!url || url.port || url.username) return true;
  const folded = url.hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
  if (folded === "" || folded === "localhost" || folded.endsWith(".localhost")) return true;
  return ipaddr.isValid(folded) && !isPublicAddress(folded);
}

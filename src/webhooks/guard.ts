/** Which URLs webhooks may go to: public ones, and networks of our own that the operator has opened. */
import ipaddr from "ipaddr.js";
import { isForbiddenHost, isPublicAddress } from "../remote/addresses.ts";
import { type AddressOptions, findAllowedAddresses, hostOf, isUsualPort, portOf } from "../remote/request.ts";

export interface WebhookGuard {
  /** What can be told without asking a resolver: the canonical form of an accepted URL, or what is wrong with it. */
  judge(url: string): { url: string } | { fault: string };
  /** The addresses to connect to, checked anew at each attempt. @throws RemoteError */
  addressesOf(url: URL): Promise<string[]>;
}

const maxLength = 2_000;

/** @param networks addresses and networks (`10.0.0.0/8`) that may be called although they are private, on any port */
export function createWebhookGuard(networks: string[], resolve?: AddressOptions["resolve"]): WebhookGuard {
  const opened = networks.map((text) => {
    if (ipaddr.isValidCIDR(text)) return ipaddr.parseCIDR(text);
    const address = ipaddr.parse(text);
    return [address, address.kind() === "ipv4" ? 32 : 128] as [typeof address, number];
  });
  const isOpened = (address: string): boolean => {
    if (!ipaddr.isValid(address)) return false;
    const parsed = ipaddr.process(address);
    return opened.some(([network, bits]) => network.kind() === parsed.kind() && parsed.match([network, bits] as never));
  };

  return {
    judge(text) {
      const url = URL.parse(text);
      if (!url || (url.protocol !== "http:" && url.protocol !== "https:")) return { fault: "must be an http(s) URL" };
      if (text.length > maxLength) return { fault: `must have at most ${maxLength} characters` };
      if (url.username || url.password) return { fault: "must not hold a user or a password" };
      const host = hostOf(url);
      // A name may stand for an opened address: what it resolves to decides, when it is called.
      const isName = !ipaddr.isValid(host);
      if (isForbiddenHost(host) && !(opened.length > 0 && (isName || isOpened(host)))) {
        return { fault: "must not be on a private, loopback or link-local address" };
      }
      if (!isUsualPort(portOf(url)) && !(isName ? opened.length > 0 : isOpened(host))) {
        return { fault: "must be on one of the ports 80, 443, 8080 and 8443" };
      }
      url.hash = "";
      return { url: url.href };
    },
    addressesOf: (url) =>
      findAllowedAddresses(url, {
        resolve,
        ...(opened.length === 0
          ? {}
          : {
              isForbiddenHost: () => false,
              isAllowedPort: () => true,
              isAllowedAddress: (address) =>
                isOpened(address) || (isPublicAddress(address) && isUsualPort(portOf(url))),
            }),
      }),
  };
}

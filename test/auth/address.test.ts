import { expect, test } from "bun:test";
import { createAddressReader, networkOf } from "../../src/auth/address.ts";
import { readConfig } from "../../src/config.ts";
import { password, startApp } from "../helpers/app.ts";
import { anotherProcess } from "../helpers/process.ts";

const proxies = ["10.0.0.0/8", "192.0.2.1", "2001:db8:ffff::/48"];

test.each([
  { why: "nobody forwards", socket: "198.51.100.9", forwarded: undefined, address: "198.51.100.9" },
  { why: "an untrusted peer claims", socket: "198.51.100.9", forwarded: "203.0.113.1", address: "198.51.100.9" },
  { why: "a trusted proxy tells", socket: "10.1.2.3", forwarded: "203.0.113.1", address: "203.0.113.1" },
  { why: "a chain is told", socket: "10.1.2.3", forwarded: "203.0.113.1, 192.0.2.1, 10.9.9.9", address: "203.0.113.1" },
  {
    why: "the caller invents hops",
    socket: "10.1.2.3",
    forwarded: "1.1.1.1, 10.0.0.1, 203.0.113.1",
    address: "203.0.113.1",
  },
  { why: "all hops are trusted", socket: "10.1.2.3", forwarded: "10.0.0.1", address: "10.0.0.1" },
  { why: "the proxy tells nothing", socket: "10.1.2.3", forwarded: "", address: "10.1.2.3" },
  { why: "the proxy tells rubbish", socket: "10.1.2.3", forwarded: "1.1.1.1, unknown", address: "10.1.2.3" },
  { why: "a short form is no address", socket: "10.1.2.3", forwarded: "127.1", address: "10.1.2.3" },
  { why: "a port is told", socket: "10.1.2.3", forwarded: "203.0.113.1:4711", address: "203.0.113.1" },
  { why: "an IPv6 proxy tells", socket: "2001:db8:ffff::1", forwarded: "2001:db8::5", address: "2001:db8::5" },
  { why: "brackets and a port are told", socket: "10.1.2.3", forwarded: "[2001:db8::5]:80", address: "2001:db8::5" },
  { why: "a socket maps IPv4 into IPv6", socket: "::ffff:10.1.2.3", forwarded: "203.0.113.1", address: "203.0.113.1" },
  { why: "there is no socket", socket: undefined, forwarded: "203.0.113.1", address: "" },
])("$why: $address", ({ socket, forwarded, address }) => {
  expect(createAddressReader(proxies)(socket, forwarded)).toBe(address);
});

test.each([
  ["203.0.113.1", "203.0.113.1"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:db8:1:2::", "2001:db8:1:2::/64"],
  ["", ""],
])("%s is limited as %s", (address, network) => {
  expect(networkOf(address)).toBe(network);
});

test("TRUSTED_PROXIES must be addresses or networks", () => {
  expect(readConfig({ TRUSTED_PROXIES: "10.0.0.0/8, ::1" }).trustedProxies).toEqual(["10.0.0.0/8", "::1"]);
  expect(() => readConfig({ TRUSTED_PROXIES: "10.0.0.0/8,proxy.local" })).toThrow("TRUSTED_PROXIES");
});

test("a session keeps the caller's address, which only a trusted proxy may name", async () => {
  const app = await startApp();
  const user = await app.signUp();
  const call = anotherProcess(app, { trustedProxies: proxies });
  const ipFrom = async (from: string) => {
    const headers = { "X-Forwarded-For": "203.0.113.1" };
    return (await call("POST", "/api/sessions", { body: { email: user.email, password }, headers, from })).body.ip;
  };
  expect(await ipFrom("10.1.2.3")).toBe("203.0.113.1");
  expect(await ipFrom("198.51.100.9")).toBe("198.51.100.9");
});

/** The guarded download: where it goes, where it does not, and when it stops. */
import { afterAll, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { createServer as createPlainServer } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { isForbiddenHost, isPublicAddress } from "../../src/remote/addresses.ts";
import { fetchRemote, type RemoteOptions } from "../../src/storage/fetch-remote.ts";
import { certificate, privateKey } from "./tls.ts";

/** Plays the public server; under its name it may be reached although it listens on the loopback. */
const asked: string[] = [];
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request) {
    const url = new URL(request.url);
    asked.push(`${request.headers.get("host")} ${url.pathname}`);
    return answers[url.pathname]?.(request, url) ?? new Response("no such page", { status: 404 });
  },
});
afterAll(() => server.stop(true));
const port = server.port ?? 0;
const home = `http://pictures.example:${port}`;

const redirect = (location: string, status = 302) => new Response("moved", { status, headers: { location } });
const answers: Record<string, (request: Request, url: URL) => Response> = {
  "/picture": () => new Response("picture", { headers: { "content-type": "image/png" } }),
  "/headers": (request) => Response.json(Object.fromEntries(request.headers)),
  "/gone": () => new Response("gone", { status: 410 }),
  "/broken": () => new Response("broken", { status: 500 }),
  "/nowhere": () => new Response(null, { status: 302 }),
  "/relative": () => redirect("/picture", 307),
  "/to": (_, url) => redirect(url.searchParams.get("url") ?? ""),
  "/hops": (_, url) => {
    const left = Number(url.searchParams.get("left"));
    return left > 0 ? redirect(`/hops?left=${left - 1}`) : new Response("arrived");
  },
  "/silent": () => new Response(new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(10)) })),
  "/sized": (_, url) => new Response(new Uint8Array(Number(url.searchParams.get("bytes")))),
  "/endless": () => new Response(new ReadableStream({ pull: (c) => c.enqueue(new Uint8Array(50_000)) })),
};

/** The loopback plays a public address; everything else is judged as ever. */
const lenient: RemoteOptions = {
  isAllowedPort: (wanted) => [port, 80, 443].includes(wanted),
  resolve: async (name) => (name.endsWith(".example") ? ["127.0.0.1"] : Promise.reject(new Error("NXDOMAIN"))),
  isAllowedAddress: (address) => address === "127.0.0.1" || isPublicAddress(address),
};

async function textOf(url: string, options: RemoteOptions = lenient): Promise<string> {
  return new Response((await fetchRemote(url, options)).stream).text();
}

const notPublic = {
  "this network": ["0.0.0.0", "0.1.2.3"],
  private: ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
  loopback: ["127.0.0.1", "127.255.255.254", "::1"],
  "link-local": ["169.254.169.254", "fe80::1", "febf::1", "fe80::1%eth0"],
  "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
  benchmark: ["198.18.0.1", "198.19.255.255", "2001:2::1"],
  multicast: ["224.0.0.1", "239.255.255.255", "ff02::1"],
  broadcast: ["255.255.255.255"],
  reserved: ["240.0.0.1", "254.255.255.255", "192.0.0.1", "192.88.99.1"],
  documentation: ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
  unspecified: ["::"],
  "unique-local": ["fc00::1", "fdff::1"],
  "site-local": ["fec0::1"],
  mapped: ["::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"],
  compatible: ["::127.0.0.1", "::7f00:1"],
  NAT64: ["64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1"],
  "6to4": ["2002:7f00:1::", "2002:808:808::1"],
  Teredo: ["2001::1", "2001:0:4136:e378::1"],
  ORCHID: ["2001:10::1", "2001:20::1"],
  "protocol assignments": ["2001:100::1", "2001:1ff::1"],
  discard: ["100::1"],
  "not given out": ["4000::1", "5f00::1", "e000::1"],
  "no address": ["", "localhost", "127.1", "0x7f000001", "1.2.3", "8.8.8.8.8", "2606:4700::1111%eth0"],
};

describe("addresses", () => {
  test.each(Object.entries(notPublic).flatMap(([what, list]) => list.map((address) => ({ what, address }))))(
    "$address ($what) is not public",
    ({ address }) => expect(isPublicAddress(address)).toBe(false),
  );

  test.each([
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "198.17.255.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
    "2001:4860:4860::8888",
  ])("%s is public", (address) => expect(isPublicAddress(address)).toBe(true));

  test.each([
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "a.b.localhost.",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "0x7f000001",
    "0x7f.1",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "0",
    "10.1",
    "0xa9fea9fe",
    "169.254.169.254",
    "１２７.0.0.1",
    "ⓛocalhost",
    "[::1]",
    "::1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
    "[fd00::1]",
    "[fe80::1%25eth0]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "",
    " ",
    "a b",
    "a:80",
    "user@a.example",
    "256.256.256.256",
    "1.2.3.4.5",
  ])("a URL to %j is refused by its spelling", (host) => expect(isForbiddenHost(host)).toBe(true));

  test.each([
    "example.com",
    "localhost.example",
    "notlocalhost",
    "貓.example",
    "8.8.8.8",
    "[2606:4700::1111]",
    "127.example",
  ])("a URL to %j may be tried", (host) => expect(isForbiddenHost(host)).toBe(false));
});

describe("with the defaults", () => {
  test.each([
    "http://127.0.0.1/",
    "http://localhost/",
    "http://localhost./",
    "http://127.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1:8443/",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:5432/",
    `${home}/picture`, // a port that is not usual
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
    "gopher://8.8.8.8/",
    "http://user:password@8.8.8.8/",
    "http://user@8.8.8.8/",
    "not a URL",
    "",
  ])("%s is refused without a connection", async (url) => {
    const before = asked.length;
    await expect(fetchRemote(url)).rejects.toMatchObject({ reason: "forbidden-address" });
    expect(asked.length).toBe(before);
  });

  test.each(Object.entries(notPublic).flatMap(([what, list]) => list.map((address) => ({ what, address }))))(
    "a name that resolves to $address ($what) is refused, also among public ones",
    async ({ address }) => {
      for (const addresses of [[address], ["8.8.8.8", address], [address, "2606:4700::1111"]]) {
        const fetched = fetchRemote("http://pictures.example/", { resolve: async () => addresses });
        await expect(fetched).rejects.toMatchObject({ reason: "forbidden-address" });
      }
    },
  );

  test("the system's own name for the loopback is refused", async () => {
    const options = { isForbiddenHost: () => false, isAllowedPort: (wanted: number) => wanted === port };
    const fetched = fetchRemote(`http://localhost:${port}/picture`, options);
    await expect(fetched).rejects.toMatchObject({ reason: "forbidden-address" });
  });

  test("an error names no address", async () => {
    const fetched = fetchRemote("http://pictures.example/", { resolve: async () => ["10.1.2.3"] });
    expect((await fetched.catch((error) => error)).message).not.toContain("10.1.2.3");
  });
});

describe("connecting", () => {
  test("a file arrives, with what the other side says of it", async () => {
    const file = await fetchRemote(`${home}/picture`, lenient);
    expect(file.contentType).toBe("image/png");
    expect(file.url).toBe(`${home}/picture`);
    expect(await new Response(file.stream).text()).toBe("picture");
  });

  test("a resolver that changes its answer is asked once, and the checked address is used", async () => {
    const given = [["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]];
    let asks = 0;
    const resolve = async () => given[asks++] ?? [];
    expect(await textOf(`${home}/picture`, { ...lenient, resolve })).toBe("picture");
    expect(asks).toBe(1);
    expect(asked.at(-1)).toBe(`pictures.example:${port} /picture`);
  });

  test("a resolver that turns private for the redirect is refused there", async () => {
    const given = [["127.0.0.1"], ["10.0.0.1"]];
    const resolve = async () => given.shift() ?? [];
    const fetched = fetchRemote(`${home}/relative`, { ...lenient, resolve });
    await expect(fetched).rejects.toMatchObject({ reason: "forbidden-address" });
  });

  test("no credentials, cookies or referrer are sent, not even after a redirect", async () => {
    const headers = JSON.parse(await textOf(`${home}/to?url=/headers`));
    expect(Object.keys(headers).sort()).toEqual(["accept", "accept-encoding", "connection", "host", "user-agent"]);
  });

  test.each([
    { name: "the name of its certificate", url: "https://pictures.example", outcome: "GET /x HTTP/1.1" },
    { name: "a name that is not", url: "https://other.example", outcome: "unreachable" },
  ])("TLS to the checked address under $name: $outcome", async ({ url, outcome }) => {
    const names: string[] = [];
    const secure = await serveTls(names);
    const options = { ...lenient, isAllowedPort: (wanted: number) => wanted === secure.port, ca: certificate };
    const text = await textOf(`${url}:${secure.port}/x`, options).catch((error) => error.reason);
    expect(text).toContain(outcome);
    expect(names.every((name) => name === new URL(url).hostname)).toBe(true);
    secure.server.close();
  });

  test("a certificate that nobody vouches for is refused", async () => {
    const secure = await serveTls([]);
    const fetched = fetchRemote(`https://pictures.example:${secure.port}/`, {
      ...lenient,
      isAllowedPort: (wanted: number) => wanted === secure.port,
    });
    await expect(fetched).rejects.toMatchObject({ reason: "unreachable" });
    secure.server.close();
  });
});

describe("redirects", () => {
  test("a relative one is followed", async () => {
    const file = await fetchRemote(`${home}/relative`, lenient);
    expect(file.url).toBe(`${home}/picture`);
    expect(await new Response(file.stream).text()).toBe("picture");
  });

  test.each([
    { left: 3, outcome: "arrived" },
    { left: 4, outcome: "too-many-redirects" },
  ])("$left of them: $outcome", async ({ left, outcome }) => {
    expect(await textOf(`${home}/hops?left=${left}`).catch((error) => error.reason)).toBe(outcome);
  });

  test.each([
    "http://10.0.0.1/",
    "http://169.254.169.254/",
    "http://[::1]/",
    "http://2130706433/",
    "http://localhost/",
    "http://user:password@pictures.example/",
    "http://8.8.8.8:22/",
    "file:///etc/passwd",
    "ftp://8.8.8.8/",
    "http://[broken",
  ])("one to %s is refused", async (url) => {
    const fetched = fetchRemote(`${home}/to?url=${encodeURIComponent(url)}`, lenient);
    await expect(fetched).rejects.toMatchObject({ reason: "forbidden-address" });
  });
});

describe("failures and limits", () => {
  test.each([
    { url: `${home}/missing`, reason: "not-found" },
    { url: `${home}/gone`, reason: "not-found" },
    { url: `${home}/broken`, reason: "unreachable" },
    { url: `${home}/nowhere`, reason: "unreachable" },
    { url: `http://nobody.test:${port}/`, reason: "unreachable" },
  ])("$url: $reason", async ({ url, reason }) => {
    await expect(fetchRemote(url, lenient)).rejects.toMatchObject({ reason });
  });

  test("a name without addresses and a closed port are unreachable", async () => {
    const none = fetchRemote(`${home}/`, { ...lenient, resolve: async () => [] });
    await expect(none).rejects.toMatchObject({ reason: "unreachable" });
    const closed = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
    const closedPort = closed.port ?? 0;
    await closed.stop(true);
    const options = { ...lenient, isAllowedPort: (wanted: number) => wanted === closedPort };
    const fetched = fetchRemote(`http://pictures.example:${closedPort}/`, options);
    await expect(fetched).rejects.toMatchObject({ reason: "unreachable" });
  });

  test("a file as long as allowed arrives", async () => {
    expect(await textOf(`${home}/sized?bytes=1000`, { ...lenient, maxBytes: 1000 })).toHaveLength(1000);
  });

  test("a declared length that is too long is refused before the body is read", async () => {
    const fetched = fetchRemote(`${home}/sized?bytes=1001`, { ...lenient, maxBytes: 1000 });
    await expect(fetched).rejects.toMatchObject({ reason: "too-large" });
  });

  test("a body that ends before its declared length is broken off, not short", async () => {
    const cutting = createPlainServer((socket) => {
      socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort"));
    });
    await once(cutting.listen(0, "127.0.0.1"), "listening");
    const { port: cuttingPort } = cutting.address() as { port: number };
    const fetched = textOf(`http://pictures.example:${cuttingPort}/`, {
      ...lenient,
      isAllowedPort: (wanted: number) => wanted === cuttingPort,
    });
    await expect(fetched).rejects.toMatchObject({ reason: "unreachable" });
    cutting.close();
  });

  test("an undeclared length is counted, and the connection ends", async () => {
    const fetched = textOf(`${home}/endless`, { ...lenient, maxBytes: 1_000_000 });
    await expect(fetched).rejects.toMatchObject({ reason: "too-large" });
  });

  test.each([
    { what: "a server that stops in the middle", url: `${home}/silent`, options: lenient },
    {
      what: "a resolver that never answers",
      url: `${home}/`,
      options: { ...lenient, resolve: () => new Promise<never>(() => {}) },
    },
  ])("$what is timed-out", async ({ url, options }) => {
    await expect(textOf(url, { ...options, timeoutMs: 100 })).rejects.toMatchObject({ reason: "timed-out" });
  });

  test("a reader that has seen enough ends the connection", async () => {
    const { stream } = await fetchRemote(`${home}/endless`, lenient);
    const reader = stream.getReader();
    expect((await reader.read()).value?.length).toBeGreaterThan(0);
    await reader.cancel();
  });
});

/** Answers with the request as it came; notes the names that TLS asked for. */
async function serveTls(names: string[]): Promise<{ server: Server; port: number }> {
  const secure = createServer({ cert: certificate, key: privateKey }, (socket: TLSSocket) => {
    names.push(String(socket.servername));
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${data.length}\r\nConnection: close\r\n\r\n${data}`);
    });
  }).on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => secure.listen(0, "127.0.0.1", () => resolve()));
  return { server: secure, port: (secure.address() as { port: number }).port };
}

/** Where webhooks may go: what is refused when it is written, and what when it is sent. */
import { expect, test } from "bun:test";
import { createWebhookGuard } from "../../src/webhooks/guard.ts";

const names: Record<string, string[]> = {
  "public.example": ["93.184.215.14"],
  "inside.example": ["10.1.2.3"],
  "both.example": ["93.184.215.14", "10.1.2.3"],
  "mapped.example": ["::ffff:10.1.2.3"],
};
const resolve = async (name: string) => names[name] ?? [];

const cases = [
  // A name is judged only when it is called.
  { url: "https://public.example/hook", networks: [], isWritten: true, isSent: true },
  { url: "https://inside.example/hook", networks: [], isWritten: true, isSent: false },
  { url: "https://both.example/hook", networks: [], isWritten: true, isSent: false },
  { url: "https://mapped.example/hook", networks: [], isWritten: true, isSent: false },
  { url: "https://public.example:9000/hook", networks: [], isWritten: false, isSent: false },
  { url: "https://public.example:8443/hook", networks: [], isWritten: true, isSent: true },
  { url: "http://10.1.2.3/hook", networks: [], isWritten: false, isSent: false },
  { url: "http://0xa010203/hook", networks: [], isWritten: false, isSent: false },
  { url: "file:///etc/passwd", networks: [], isWritten: false, isSent: false },
  { url: "http://me:secret@public.example/", networks: ["10.0.0.0/8"], isWritten: false, isSent: false },
  { url: "http://10.1.2.3:9000/hook", networks: ["10.0.0.0/8"], isWritten: true, isSent: true },
  { url: "http://10.1.2.3:9000/hook", networks: ["10.1.2.3"], isWritten: true, isSent: true },
  { url: "http://10.1.2.4:9000/hook", networks: ["10.1.2.3"], isWritten: false, isSent: false },
  { url: "http://inside.example:9000/hook", networks: ["10.0.0.0/8"], isWritten: true, isSent: true },
  { url: "http://both.example/hook", networks: ["10.0.0.0/8"], isWritten: true, isSent: true },
  // What is opened is opened on any port, the rest of the world on the usual ones alone.
  { url: "http://both.example:9000/hook", networks: ["10.0.0.0/8"], isWritten: true, isSent: false },
  { url: "http://public.example:9000/hook", networks: ["10.0.0.0/8"], isWritten: true, isSent: false },
  { url: "http://169.254.169.254/", networks: ["10.0.0.0/8"], isWritten: false, isSent: false },
  { url: "http://[::1]:9000/", networks: ["127.0.0.0/8"], isWritten: false, isSent: false },
  { url: "http://[::1]:9000/", networks: ["::1"], isWritten: true, isSent: true },
];

test.each(cases)("$url with $networks opened: written $isWritten, sent $isSent", async (one) => {
  const guard = createWebhookGuard(one.networks, resolve);
  expect("url" in guard.judge(one.url)).toBe(one.isWritten);
  const sent = await guard.addressesOf(new URL(one.url)).catch((error) => error);
  expect(Array.isArray(sent)).toBe(one.isSent);
  if (!one.isSent) expect(sent).toMatchObject({ name: "RemoteError", reason: "forbidden-address" });
});

test("the fragment is dropped, and the URL is kept as it is asked for", () => {
  expect(createWebhookGuard([]).judge("HTTPS://Example.COM:443/a b#c")).toEqual({ url: "https://example.com/a%20b" });
});

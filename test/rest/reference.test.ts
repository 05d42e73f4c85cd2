/** The reference page: served by ourselves, and asking nobody else. */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";

const app = await startApp();
const { body: page, headers } = await app.call("GET", "/docs");
const links = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link as string);

test("the page is HTML under a policy that lets nothing of other hosts in", () => {
  expect(headers.get("content-type")).toBe("text/html; charset=utf-8");
  const policy = headers.get("content-security-policy") ?? "";
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain("script-src 'self';");
  expect(policy).not.toMatch(/https?:|\*|unsafe/);
  expect(page).not.toMatch(/<script>|\son\w+=/);
});

test("all that the page loads lies here, with its type, cached and compressed", async () => {
  expect(links).toHaveLength(5);
  for (const link of links) {
    expect(link).not.toMatch(/^(https?:|\/)/);
    const plain = await app.fetch(new Request(`http://atelier.test/${link}`));
    expect(plain.status, link).toBe(200);
    if (link === "api/openapi.json") continue;
    expect(plain.headers.get("content-type")).toMatch(link.endsWith(".js") ? /javascript/ : /css|png/);
    expect(plain.headers.get("cache-control")).toMatch(link.endsWith("start.js") ? /no-cache/ : /immutable/);
    const zipped = await app.fetch(
      new Request(`http://atelier.test/${link}`, { headers: { "Accept-Encoding": "gzip" } }),
    );
    expect(zipped.headers.get("content-encoding")).toBe("gzip");
    const unzipped = zipped.body?.pipeThrough(new DecompressionStream("gzip"));
    expect(Bun.hash(await new Response(unzipped).arrayBuffer())).toBe(Bun.hash(await plain.arrayBuffer()));
  }
});

test("the page sends the document to no validator elsewhere", async () => {
  const start = links.find((link) => link.endsWith("start.js"));
  expect((await app.call("GET", `/${start}`)).text).toContain("validatorUrl: null");
});

test.each(["package.json", "index.html", "..%2Fpackage.json", "constructor"])("%s is not served", async (name) => {
  const directory = links.find((link) => link.endsWith("start.js"))?.replace("start.js", "");
  expect((await app.call("GET", `/${directory}${name}`)).status).toBe(404);
});

test.each(["/docs", "/healthz", "/readyz", "/api/openapi.json"])("%s allows GET and HEAD alone", async (path) => {
  const answer = await app.call("DELETE", path);
  expect(answer.status).toBe(405);
  expect(answer.headers.get("allow")).toBe("GET, HEAD");
  expect((await app.call("HEAD", path)).status).toBe(200);
});

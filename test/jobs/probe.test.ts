import { afterAll, describe, expect, test } from "bun:test";
import { createProbeServers } from "../../jobs/probe-servers.ts";
import { probeServer } from "../../src/pool/probe.ts";
import { findServer } from "../../src/pool/server.ts";
import { A1111Double } from "../helpers/a1111-double.ts";
import { startApp } from "../helpers/app.ts";
import { findFreePort } from "../helpers/ports.ts";

const app = await startApp();
const admin = await app.admin();

describe("a server whose engine is not known", () => {
  const engines: A1111Double[] = [];
  afterAll(() => Promise.all(engines.map((engine) => engine.stop())));

  async function probe(engine: A1111Double, login: { username?: string; password?: string }) {
    engines.push(engine);
    const { host: ip, port } = engine.target;
    const { id } = await app.make("servers", admin.token, { name: `gpu-${port}`, type: "infer", ip, port, ...login });
    const server = await findServer(app.sql, id);
    if (server) await probeServer(app.sql, app.secrets, server);
    return app.sql`select engine, status, error from servers where id = ${id}`.then(([row]) => row);
  }
  const login = { username: "gpu", password: "s3cret" };

  test.each([
    { what: "asks nobody", engine: () => new A1111Double() },
    { what: "asks for a log-in on its own paths", engine: () => new A1111Double({ credentials: login }) },
    { what: "is behind a proxy", engine: () => new A1111Double({ credentials: login, isProxied: true }) },
  ])("is found to be an A1111 that $what", async ({ engine }) => {
    expect(await probe(engine(), login)).toEqual({ engine: "a1111", status: "ready", error: null });
  });

  test("credentials go to no engine that does not ask for them", async () => {
    const engine = new A1111Double();
    await probe(engine, login);
    for (const { headers } of engine.requests) expect(headers.get("authorization")).toBeNull();
  });
});

describe("a round of all servers", () => {
  const round = createProbeServers(app);
  const states = async () =>
    (await app.sql`select status, failures, error is not null as is_blamed from servers order by id`).map((row) => ({
      ...row,
    }));
  const good = { status: "ready", failures: 0, is_blamed: false };

  /** Two servers that were there a moment ago; `engine` is the first one's, where there is one now. */
  async function twoServers(engine?: A1111Double) {
    await app.sql`delete from servers`;
    for (const n of [1, 2]) {
      const port = n === 1 && engine ? engine.target.port : await findFreePort();
      await app.make("servers", admin.token, { name: `${n}`, type: "infer", engine: "a1111", ip: "127.0.0.1", port });
    }
    await app.sql`update servers set status = 'ready', last_seen_at = now()`;
  }

  test("in which nobody answers blames nobody: it is we who are away", async () => {
    await twoServers();
    for (let n = 0; n < 3; n += 1) await round({});
    expect(await states()).toEqual([good, good]);
  });

  test("in which nobody answers for longer than that is their own absence", async () => {
    await twoServers();
    await app.sql`update servers set last_seen_at = now() - interval '2 minutes'`;
    for (let n = 0; n < 2; n += 1) await round({});
    const out = { status: "error", failures: 2, is_blamed: true };
    expect(await states()).toEqual([out, out]);
  });

  test("in which one answers blames the other", async () => {
    const engine = new A1111Double();
    await twoServers(engine);
    for (let n = 0; n < 2; n += 1) await round({});
    await engine.stop();
    expect(await states()).toEqual([good, { status: "error", failures: 2, is_blamed: true }]);
  });

  test("of one server that does not answer blames it: nobody else could speak for us", async () => {
    await twoServers();
    await app.sql`delete from servers where name = '2'`;
    for (let n = 0; n < 2; n += 1) await round({});
    expect(await states()).toEqual([{ status: "error", failures: 2, is_blamed: true }]);
  });
});

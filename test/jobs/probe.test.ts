import { afterAll, describe, expect, test } from "bun:test";
import { probeServer } from "../../src/pool/probe.ts";
import { findServer } from "../../src/pool/server.ts";
import { A1111Double } from "../helpers/a1111-double.ts";
import { startApp } from "../helpers/app.ts";

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

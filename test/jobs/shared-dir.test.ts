/** What probing makes of a server's `shared_dir` and of the SSH host key behind it. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { startDemoEngine } from "../../src/demo-engine/server.ts";
import { probeServer, recordFailure } from "../../src/pool/probe.ts";
import { findServer, type ServerRow } from "../../src/pool/server.ts";
import { startApp } from "../helpers/app.ts";
import { startSshd } from "../helpers/sshd.ts";

const app = await startApp();
const admin = await app.admin();
const sshd = await startSshd();
const engine = await startDemoEngine({ port: 0, directory: join(app.directory, "engine"), stepMs: 0, quiet: true });
afterAll(() => Promise.all([engine.stop(), sshd.stop()]));
const shared = join(app.directory, "models");
mkdirSync(shared);

const path = (id: number) => `/api/servers/${id}`;
const read = async (id: number) => (await app.call("GET", path(id), { token: admin.token })).body;
const patch = (id: number, body: object) => app.call("PATCH", path(id), { token: admin.token, body });
const probe = async (id: number) => {
  const failure = await probeServer(app.sql, app.secrets, (await findServer(app.sql, id)) as ServerRow);
  if (failure) await recordFailure(app.sql, failure);
};

const { id } = await app.make("servers", admin.token, {
  ...{ name: "gpu", type: "infer", ip: "127.0.0.1", port: engine.port, private_key: sshd.privateKey },
  shared_dir: `sftp://${sshd.username}@127.0.0.1:${sshd.port}${shared}`,
});

test("the host key is pinned at the first log-in; a changed one is an error until an admin takes the pin away", async () => {
  await probe(id);
  expect(await read(id)).toMatchObject({ engine: "comfyui", status: "ready", error: null, host_key: sshd.hostKey });
  const before = sshd.hostKey;
  await sshd.restart("other");
  await probe(id);
  const refused = await read(id);
  expect(refused).toMatchObject({ status: "error", host_key: before });
  expect(refused.error).toContain("host_key");
  await patch(id, { host_key: null });
  await probe(id);
  expect(await read(id)).toMatchObject({ status: "ready", error: null, host_key: sshd.hostKey });
});

test("an engine whose shared_dir is out of reach works without, and admins read why", async () => {
  for (const shared_dir of [join(shared, "gone"), `sftp://nobody-of-that-name@127.0.0.1:${sshd.port}${shared}`]) {
    await patch(id, { shared_dir });
    await probe(id);
    const server = await read(id);
    expect(server.status).toBe("ready");
    expect(server.error).toStartWith("shared_dir: ");
  }
  await patch(id, { shared_dir: shared });
  await probe(id);
  expect(await read(id)).toMatchObject({ status: "ready", error: null });
});

test("the host key is pinned at the first log-in, also when there is nothing to work with behind it", async () => {
  const server = await app.make("servers", admin.token, {
    ...{ name: "bare", type: "train", engine: "kohya", ip: "127.0.0.1", port: sshd.port },
    ...{ username: sshd.username, private_key: sshd.privateKey, shared_dir: shared },
  });
  await probe(server.id);
  const seen = await read(server.id);
  expect(seen).toMatchObject({ status: "error", host_key: sshd.hostKey });
  expect(seen.error).toContain("sd-scripts");
});

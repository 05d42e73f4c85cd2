/** GPU servers: what guests see, and secrets that go in and never come out. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startDemoEngine } from "../../src/demo-engine/server.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { server as sample } from "../helpers/samples.ts";

const app = await startApp();
const admin = await app.admin();
const user = await app.signUp();

const post = (body: Json) => app.call("POST", "/api/servers", { token: admin.token, body });
const patch = (id: number, body: Json) => app.call("PATCH", `/api/servers/${id}`, { token: admin.token, body });

describe("what is shown", () => {
  test("guests and users see id, name, type, status and models; admins all but the secrets", async () => {
    const { body } = await post({ ...sample(), username: "root", password: "secret", private_key: "secret" });
    const fields = async (token?: string) =>
      Object.keys((await app.call("GET", `/api/servers/${body.id}`, { token })).body).sort();
    const open = ["id", "models", "name", "status", "type"];
    expect(await fields()).toEqual(open);
    expect(await fields(user.token)).toEqual(open);
    const all = await fields(admin.token);
    expect(all).toEqual(
      expect.arrayContaining([...open, "ip", "port", "username", "engine", "slots", "checkpoints", "queue", "error"]),
    );
    expect(all.filter((name) => /password|private_key|sealed/.test(name))).toEqual([]);
    const listed = await app.call("GET", "/api/servers");
    expect(Object.keys(listed.body.list[0]).sort()).toEqual(open);
  });

  test("passwords and keys never come back, and are sealed in the table", async () => {
    const secret = "a-very-secret-password";
    const made = await post({ ...sample(), username: "root", password: secret, private_key: secret });
    const changed = await patch(made.body.id, { password: `${secret}-2` });
    const read = await app.call("GET", `/api/servers/${made.body.id}`, { token: admin.token });
    const list = await app.call("GET", "/api/servers?pageSize=200", { token: admin.token });
    for (const answer of [made, changed, read, list]) expect(answer.text).not.toContain(secret);
    const [row] = await app.sql<{ text: string; password_sealed: string; private_key_sealed: string }[]>`
      select t::text as text, password_sealed, private_key_sealed from servers t where id = ${made.body.id}
    `;
    expect(row?.text).not.toContain(secret);
    expect(app.secrets.open(row?.password_sealed as string)).toBe(`${secret}-2`);
    expect(app.secrets.open(row?.private_key_sealed as string)).toBe(secret);
    await patch(made.body.id, { password: null });
    const [cleared] = await app.sql`select password_sealed from servers where id = ${made.body.id}`;
    expect(cleared?.password_sealed).toBeNull();
  });

  test("more changes of one server at once than there are connections all take effect", async () => {
    const { id } = (await post(sample())).body;
    const answers = await Promise.all(Array.from({ length: 12 }, (_, i) => patch(id, { slots: 1 + (i % 2) })));
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  });

  test("models are the engine's, live; a silent engine has none and slows nothing", async () => {
    const directory = mkdtempSync(join(tmpdir(), "atelier-engine-"));
    const engine = await startDemoEngine({ port: 0, directory, stepMs: 0, quiet: true });
    app.onClose(async () => {
      await engine.stop();
      rmSync(directory, { recursive: true, force: true });
    });
    const body = { name: "live", type: "infer", engine: "comfyui", ip: "127.0.0.1", port: engine.port };
    const { id } = (await post(body)).body;
    const read = async () => (await app.call("GET", `/api/servers/${id}`)).body.models;
    const checkpoints = (await read()).filter((model: Json) => model.type === "checkpoint");
    expect(checkpoints.length).toBeGreaterThan(0);
    const silent = (await post({ ...sample(), engine: "comfyui" })).body;
    const since = performance.now();
    const list = await app.call("GET", `/api/servers?id=${silent.id}`);
    expect(list.body.list[0].models).toEqual([]);
    expect(performance.now() - since).toBeLessThan(3_000);
  });
});

describe("what a POST needs", () => {
  test("name, type, ip and port; the rest has defaults, and the server is not probed yet", async () => {
    const empty = await post({});
    expect(empty.body.errors.map((error: Json) => error.pointer)).toEqual(["/name", "/type", "/ip", "/port"]);
    const { status, body } = await post(sample());
    expect(status).toBe(201);
    expect(body).toMatchObject({ status: "initial", engine: null, slots: 1, tls: false, models: [], checkpoints: {} });
  });

  const faults: { what: string; change: Json; pointer: string }[] = [
    { what: "another type", change: { type: "paint" }, pointer: "/type" },
    { what: "another engine", change: { engine: "other" }, pointer: "/engine" },
    { what: "a URL for an address", change: { ip: "http://example.com" }, pointer: "/ip" },
    { what: "port 0", change: { port: 0 }, pointer: "/port" },
    { what: "port 65536", change: { port: 65_536 }, pointer: "/port" },
    { what: "no slot", change: { slots: 0 }, pointer: "/slots" },
    { what: "an unknown base model", change: { checkpoints: { SDXL: "x" } }, pointer: "/checkpoints" },
    {
      what: "a host key of another type than it says",
      change: { host_key: "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA" },
      pointer: "/host_key",
    },
    { what: "a fingerprint for a host key", change: { host_key: "SHA256:quHIACZXBgm4QTI8" }, pointer: "/host_key" },
    ...[
      ...[
        "models",
        "C:/models",
        "/",
        "/models/../etc",
        "/a\nb",
        "sftp://host/models",
        "sftp://u@host",
        "sftp://u@host/%2e%2e%2f",
      ],
      ...["sftp://u:secret@host/models", "http://u@host/models", "sftp://u@host/models?x", "sftp://u@host/%ff", ""],
    ].map((shared_dir) => ({ what: `${shared_dir} for a shared_dir`, change: { shared_dir }, pointer: "/shared_dir" })),
    { what: "a status", change: { status: "ready" }, pointer: "/status" },
  ];
  test.each(faults)("$what is 422", async ({ change, pointer }) => {
    const answer = await post({ ...sample(), ...change });
    expect(answer.status).toBe(422);
    expect(answer.body.errors[0].pointer).toStartWith(pointer);
  });

  test("a name or an address twice is 409", async () => {
    const first = sample();
    await post(first);
    expect((await post({ ...sample(), name: first.name })).body.code).toBe("name-taken");
    expect((await post({ ...sample(), ip: first.ip, port: first.port })).body.code).toBe("conflict");
  });
});

describe("a host's files and its key", () => {
  const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJV7eGY0PNvXn9cvq2bYCNwZzJ2lN4b4cY5n1kQ0oS2u";

  test("admins set, read and take away the host key and the shared_dir; each asks the server anew", async () => {
    const fields = { host_key: `${key} a comment`, shared_dir: "sftp://u@192.0.2.9:2222/srv/models" };
    const { body } = await post({ ...sample(), ...fields });
    expect(body).toMatchObject({ host_key: key, shared_dir: fields.shared_dir });
    for (const change of [{ host_key: null }, { shared_dir: "/mnt/models" }, { host_key: key }, { shared_dir: null }]) {
      await app.sql`update servers set status = 'error' where id = ${body.id}`;
      const before = (await app.call("GET", `/api/servers/${body.id}`, { token: admin.token })).headers.get("etag");
      const changed = await patch(body.id, change);
      expect(changed.body).toMatchObject({ ...change, status: "initial" });
      expect(changed.headers.get("etag")).not.toBe(before);
    }
  });
});

describe("draining", () => {
  test("closing drains; ready ends it and probes again", async () => {
    const { body } = await post(sample());
    expect((await patch(body.id, { status: "closing" })).body.status).toBe("closing");
    expect((await patch(body.id, { slots: 3 })).body).toMatchObject({ status: "closing", slots: 3 });
    expect((await patch(body.id, { status: "ready" })).body.status).toBe("initial");
    for (const status of ["working", "idle", "error", "initial"]) {
      expect((await patch(body.id, { status })).status).toBe(422);
    }
  });

  test("a server with work on it is not deleted: 409", async () => {
    const { body } = await post(sample());
    const task = await app.make("tasks", user.token, { type: "infer", prompt: "x" });
    await app.sql`update tasks set status = 'running' where id = ${task.id}`;
    await app.sql`
      insert into leases (task_id, server_id, user_id, need_id)
      select id, ${body.id}, user_id, need_id from tasks where id = ${task.id}
    `;
    const remove = () => app.call("DELETE", `/api/servers/${body.id}`, { token: admin.token });
    expect((await remove()).body.code).toBe("in-use");
    await app.call("PATCH", `/api/tasks/${task.id}`, { token: user.token, body: { status: "canceled" } });
    expect((await remove()).status).toBe(204);
  });
});

/** Model files on an engine's host: on a mounted path, and over SFTP to OpenSSH's server. */

import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EngineTarget } from "../../src/drivers/driver.ts";
import { type HostFiles, openHostFiles } from "../../src/drivers/host-files/index.ts";
import { makeKeyPair } from "../helpers/ssh-keys.ts";
import { startSshd } from "../helpers/sshd.ts";
import { inputFile } from "./jobs.ts";

const sshd = await startSshd();
const base = mkdtempSync(join(tmpdir(), "atelier-shared-"));
afterAll(async () => {
  await sshd.stop();
  rmSync(base, { recursive: true, force: true });
});

const signal = AbortSignal.timeout(60_000);
const engine: EngineTarget = { host: "192.0.2.1", port: 1, tls: false };
const strangersKey = makeKeyPair().private;
let count = 0;

const kinds = {
  mount: (path: string) => ({ ...engine, sharedDir: path }),
  SFTP: (path: string) => {
    const { username, host, port, privateKey, hostKey } = sshd;
    return { ...engine, privateKey, hostKey, sharedDir: `sftp://${username}@${host}:${port}${path}` };
  },
};

function open(target: EngineTarget): HostFiles {
  const files = openHostFiles(target);
  if (!files) throw new Error("no shared_dir");
  return files;
}

test("a server without a shared_dir has no such files", () => {
  expect(openHostFiles(engine)).toBeNull();
});

for (const [kind, toTarget] of Object.entries(kinds)) {
  describe(`over ${kind}`, () => {
    function setup() {
      const path = join(base, `it's ${count++}`);
      mkdirSync(path);
      return { path, files: open(toTarget(path)) };
    }

    test("a model is put under its hash, listed, and removed; what others keep there stays", async () => {
      const { path, files } = setup();
      const model = inputFile(crypto.getRandomValues(new Uint8Array(60_000)), "safetensors");
      const name = await files.put("loras", model, signal);
      expect(name).toBe(`atelier/${model.hash}.safetensors`);
      expect(readFileSync(join(path, "loras", name)).equals(Buffer.from(await bytesOf(model)))).toBeTrue();
      writeFileSync(join(path, "loras/atelier/notes.txt"), "mine");
      expect(await files.list("loras", signal)).toEqual([{ name, size: model.size }]);
      expect(await files.list("embeddings", signal)).toEqual([]);
      await files.remove("loras", name, signal);
      await files.remove("loras", name, signal);
      expect(readdirSync(join(path, "loras/atelier"))).toEqual(["notes.txt"]);
    });

    test("what lies there with the right size is not sent again; half a file is", async () => {
      const { path, files } = setup();
      let reads = 0;
      const model = inputFile("a model", "pt");
      const stream = () => {
        reads += 1;
        return model.stream();
      };
      const counted = { ...model, stream };
      const name = await files.put("hypernetworks", counted, signal);
      await files.put("hypernetworks", counted, signal);
      expect(reads).toBe(1);
      writeFileSync(join(path, "hypernetworks", name), "half");
      await files.put("hypernetworks", counted, signal);
      expect(readFileSync(join(path, "hypernetworks", name), "utf8")).toBe("a model");
    });

    test("a file that breaks off leaves nothing behind", async () => {
      const { path, files } = setup();
      const model = { ...inputFile("a model", "pt"), size: 8 };
      expect(await files.put("checkpoints", model, signal).catch((error) => error)).toMatchObject({
        errorClass: "model-missing",
      });
      expect(readdirSync(join(path, "checkpoints/atelier"))).toEqual([]);
    });

    test("an empty file is a file", async () => {
      const { files } = setup();
      const name = await files.put("checkpoints", inputFile("", "pt"), signal);
      expect(await files.list("checkpoints", signal)).toEqual([{ name, size: 0 }]);
    });

    test.each(["../x", "a/b", ".", "x\0", "..", "png/../../x", ""])(
      "the extension %p goes nowhere",
      async (extension) => {
        const { path, files } = setup();
        expect(await files.put("loras", inputFile("x", extension), signal).catch((error) => error)).toBeInstanceOf(
          Error,
        );
        expect(await files.remove("loras", `atelier/${extension}`, signal).catch((error) => error)).toBeInstanceOf(
          Error,
        );
        expect(readdirSync(path)).toEqual([]);
      },
    );

    test("a directory that is not there is no place, and is not made", async () => {
      const path = join(base, "not-mounted");
      const files = open(toTarget(path));
      expect(await files.check(signal).catch((error) => error)).toMatchObject({ errorClass: "model-missing" });
      const error = await files.put("loras", inputFile("x", "pt"), signal).catch((error) => error);
      expect(error).toMatchObject({ errorClass: "model-missing" });
      expect(error.message).not.toContain(base);
      expect(existsSync(path)).toBeFalse();
    });
  });
}

describe("over SFTP alone", () => {
  const target = () => kinds.SFTP(base);

  test("the host key is reported by the check, and nothing else connects before it is pinned", async () => {
    const files = open({ ...target(), hostKey: undefined });
    expect(await files.check(signal)).toEqual({ hostKey: sshd.hostKey });
    expect(await files.list("loras", signal).catch((error) => error)).toMatchObject({ errorClass: "untrusted" });
  });

  test.each([
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJV7eGY0PNvXn9cvq2bYCNwZzJ2lN4b4cY5n1kQ0oS2u",
    "ssh-rsa AAAAB3NzaC1yc2E=",
  ])("a host with another key than %p is not talked to", async (hostKey) => {
    const error = await open({ ...target(), hostKey })
      .check(signal)
      .catch((error) => error);
    expect(error).toMatchObject({ errorClass: "untrusted" });
    expect(error.message).toContain("host_key");
  });

  test.each([
    { what: "another key", change: { privateKey: strangersKey }, errorClass: "unauthorized" },
    { what: "no key", change: { privateKey: undefined }, errorClass: "unauthorized" },
    { what: "a key that is none", change: { privateKey: "-----BEGIN" }, errorClass: "unauthorized" },
    { what: "a password", change: { privateKey: undefined, password: "wrong" }, errorClass: "unauthorized" },
    { what: "a port where nobody is", change: { sharedDir: "sftp://a@127.0.0.1:1/x" }, errorClass: "unreachable" },
  ])("$what is $errorClass", async ({ change, errorClass }) => {
    const error = await open({ ...target(), ...change })
      .check(signal)
      .catch((error) => error);
    expect(error).toMatchObject({ name: "EngineError", errorClass });
  });

  test("a large file arrives whole, in pieces that are never all in memory", async () => {
    const path = join(base, "large");
    mkdirSync(path);
    const size = 5_000_003;
    const bytes = crypto.getRandomValues(new Uint8Array(60_000));
    const content = Buffer.alloc(size, bytes);
    const model = inputFile(content, "safetensors");
    const name = await open(kinds.SFTP(path)).put("checkpoints", model, signal);
    expect(readFileSync(join(path, "checkpoints", name)).equals(content)).toBeTrue();
  });
});

async function bytesOf(file: ReturnType<typeof inputFile>): Promise<Uint8Array> {
  return new Response(await file.stream()).bytes();
}

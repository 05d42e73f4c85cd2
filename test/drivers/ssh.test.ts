/** The SSH connection: log-ins by password, and scripts that other people's shells get in the way of. */

import { describe, expect, test } from "bun:test";
import { SshConnection } from "../../src/drivers/ssh/connection.ts";
import { makeKeyPair } from "../helpers/ssh-keys.ts";
import { type Admission, startInProcess } from "../helpers/ssh-server.ts";

const hostKey = makeKeyPair();
const pinned = hostKey.public.split(" ").slice(0, 2).join(" ");
const signal = AbortSignal.timeout(60_000);

async function connected<T>(
  admission: Admission,
  login: { password?: string; privateKey?: string },
  work: (ssh: SshConnection) => Promise<T>,
): Promise<T> {
  const server = await startInProcess(hostKey.private, admission);
  try {
    const address = { host: "127.0.0.1", port: server.port, username: "painter", hostKey: pinned, ...login };
    const ssh = await SshConnection.open(address, signal);
    try {
      return await work(ssh);
    } finally {
      ssh.close();
    }
  } finally {
    await server.stop();
  }
}

const run =
  (script: string, values = {}) =>
  async (ssh: SshConnection) =>
    (await ssh.run(script, values, signal)).stdout.toString();

describe("who is let in", () => {
  const password = "correct horse";
  const locked = makeKeyPair(password);
  test.each([
    { what: "a password", admission: { password }, login: { password } },
    { what: "a password that is asked for", admission: { password, isAsked: true }, login: { password } },
    {
      what: "a key with a passphrase",
      admission: { publicKey: locked.public },
      login: { password, privateKey: locked.private },
    },
    { what: "the wrong password", admission: { password }, login: { password: "wrong" }, refused: true },
    {
      what: "the wrong password, asked for",
      admission: { password, isAsked: true },
      login: { password: "wrong" },
      refused: true,
    },
    {
      what: "a key with the wrong passphrase",
      admission: { publicKey: locked.public },
      login: { password: "wrong", privateKey: locked.private },
      refused: true,
    },
  ])("$what", async ({ admission, login, refused }) => {
    const answer = connected({ username: "painter", ...admission }, login, run("echo in")).catch((error) => error);
    if (refused) expect(await answer).toMatchObject({ name: "EngineError", errorClass: "unauthorized" });
    else expect(await answer).toBe("in\n");
  });
});

describe("scripts", () => {
  const admission = { username: "painter", password: "x" };
  const connect = <T>(work: (ssh: SshConnection) => Promise<T>) => connected(admission, { password: "x" }, work);

  test("values are just that, and one script's are not the next one's", async () => {
    const texts = ["'; echo pwned; '", '"$(echo pwned)"', "`echo pwned`\n\\", "$HOME", "-n", "", "布穀鳥"];
    await connect(async (ssh) => {
      for (const text of texts) expect(await run('printf "%s" "$text"', { text })(ssh)).toBe(text);
      expect(await run('set -u; echo "$text"; echo')(ssh)).toBe("");
      expect(await ssh.run("", { text: "a\0b" }, signal).catch((error) => error)).toBeInstanceOf(Error);
    });
  });

  test("they run one after another, whatever they do to their shell, their input and their output", async () => {
    await connect(async (ssh) => {
      const scripts = [
        "exit 3",
        "cat",
        "printf 'no line end'",
        "cd /; set -e; false",
        "echo >&2 aside",
        "head -c 200000 /dev/zero",
      ];
      const results = await Promise.all(scripts.map((script) => ssh.run(script, {}, signal)));
      expect(results.map(({ code, stdout }) => [code, stdout.length])).toEqual([
        ...[
          [3, 0],
          [0, 0],
          [0, 11],
          [1, 0],
          [0, 0],
          [0, 200_000],
        ],
      ]);
    });
  });

  test("a log-in that is greeted by its shell says the same", async () => {
    const server = await startInProcess(hostKey.private, { ...admission, greeting: "Welcome!\n\nNo newline" });
    const address = { host: "127.0.0.1", port: server.port, username: "painter", password: "x", hostKey: pinned };
    const ssh = await SshConnection.open(address, signal);
    expect(await run("echo first")(ssh)).toBe("first\n");
    expect(await run("echo second")(ssh)).toBe("second\n");
    ssh.close();
    await server.stop();
  });

  test("a script that never ends is left when the signal says so, and one that answers without end at once", async () => {
    await connect(async (ssh) => {
      const reason = new Error("enough");
      const controller = new AbortController();
      const answer = ssh.run("sleep 1000", {}, controller.signal).catch((error) => error);
      controller.abort(reason);
      expect(await answer).toBe(reason);
    });
    const answer = connect((ssh) => ssh.run("yes", {}, signal)).catch((error) => error);
    expect(await answer).toMatchObject({ name: "EngineError", errorClass: "engine-failed" });
  });
});

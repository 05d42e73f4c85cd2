/**
 * Fuzzes the running API by its own OpenAPI document, as a guest, as a user and as an admin: no 5xx, no answer that the
 * document does not describe. Opt-in (`bun run fuzz`, or `bun run fuzz admin` for one viewer), since it takes minutes
 * and installs schemathesis by pip.
 *
 * `FUZZ_EXAMPLES`: cases for each operation (20). `SCHEMATHESIS`: one that is installed already. Ends with 1 when
 * something was found; what it was stands in the output, with a curl command for each.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { findFreePort } from "../helpers/ports.ts";

const release = "schemathesis==4.32.5";
const root = resolve(import.meta.dirname, "../..");
const directory = mkdtempSync(join(tmpdir(), "atelier-fuzz-"));
const admin = { email: "admin@example.com", password: "the fuzzer's admin" };
const user = { email: "user@example.com", password: "the fuzzer's user" };

const schemathesis = process.env.SCHEMATHESIS || (await install());
const port = await findFreePort();
const url = `http://127.0.0.1:${port}`;
const up = Bun.spawn([process.execPath, join(root, "src/up.ts")], {
  cwd: root,
  env: {
    ...process.env,
    DATA_DIR: join(directory, "data"),
    PORT: String(port),
    ADMIN_EMAIL: admin.email,
    ADMIN_PASSWORD: admin.password,
    DEMO_ENGINES: "0",
    LOG_LEVEL: "error",
  },
  stdout: "ignore",
  stderr: "inherit",
});

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => up.kill("SIGTERM"));

let isClean = true;
try {
  await untilReady();
  await post("users", user);
  const token = await logIn(user);
  await fill(token);
  const viewers: [string, string | null][] = [
    ["guest", null],
    ["user", token],
    ["admin", await logIn(admin)],
  ];
  const chosen = process.argv.slice(2);
  for (const [who, as] of viewers) {
    if (chosen.length > 0 && !chosen.includes(who)) continue;
    process.stdout.write(`\nAs ${who}\n`);
    if ((await fuzz(as)) !== 0) isClean = false;
  }
} finally {
  up.kill("SIGTERM");
  await up.exited;
  rmSync(directory, { recursive: true, force: true });
}
process.exit(isClean ? 0 : 1);

async function fuzz(token: string | null): Promise<number> {
  const child = Bun.spawn(
    [
      schemathesis,
      ...["--config-file", join(import.meta.dirname, "schemathesis.toml")],
      ...["run", `${url}/api/openapi.json`, "--url", url, "--checks", "all", "--continue-on-failure"],
      ...["--max-examples", process.env.FUZZ_EXAMPLES || "20", "--suppress-health-check", "all", "--warnings", "off"],
      // Logging out, or a new password, would make a guest of the fuzzer on the way.
      ...(token === null
        ? []
        : [
            ...["--exclude-operation-id", "deleteSession", "--exclude-operation-id", "patchSession"],
            ...["--header", `Authorization: Bearer ${token}`],
          ]),
    ],
    {
      cwd: directory,
      env: { ...process.env, SCHEMATHESIS_HOOKS: join(import.meta.dirname, "hooks.py") },
      stdout: "inherit",
      stderr: "inherit",
    },
  );
  return child.exited;
}

async function install(): Promise<string> {
  const venv = join(directory, "venv");
  await run(["python3", "-m", "venv", venv]);
  await run([join(venv, "bin/pip"), "install", "--quiet", release]);
  return join(venv, "bin/schemathesis");
}

async function run(command: string[]): Promise<void> {
  const code = await Bun.spawn(command, { stdout: "inherit", stderr: "inherit" }).exited;
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}`);
}

async function untilReady(): Promise<void> {
  for (;;) {
    if (up.exitCode !== null) throw new Error("`up` did not start");
    const answer = await fetch(`${url}/readyz`).catch(() => null);
    if (answer?.ok) return;
    await Bun.sleep(100);
  }
}

async function post(name: string, body: unknown, token?: string) {
  const headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(`${url}/api/${name}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`POST ${name}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function logIn(credentials: { email: string; password: string }): Promise<string> {
  return (await post("sessions", credentials)).token;
}

/** Something to be found at the first ids. */
async function fill(token: string): Promise<void> {
  for (const isPublic of [true, false]) {
    const { id } = await post("datasets", { images: [], tags: ["動物"], public: isPublic }, token);
    await post("models", { dataset_id: id, public: isPublic }, token);
    await post("images", { prompt: "a cuckoo", public: isPublic }, token);
  }
}

import { expect, test } from "bun:test";
import { join } from "node:path";
import { temporaryDirectory } from "./client.ts";

const program = join(import.meta.dir, "../../src/demo-engine/main.ts");

function spawn(...more: string[]) {
  return Bun.spawn([process.execPath, program, "--directory", temporaryDirectory(), "--quiet", ...more], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ENGINE_SECRET: "secret" },
  });
}

/** The port that the program tells in its first line. */
async function readPort(stdout: ReadableStream<Uint8Array>): Promise<number> {
  let text = "";
  for await (const chunk of stdout.pipeThrough(new TextDecoderStream() as never) as AsyncIterable<string>) {
    text += chunk;
    if (text.includes("\n")) break;
  }
  return JSON.parse(text).port;
}

test.each(["SIGTERM", "SIGINT"] as const)("tells its port, asks for the log-in and ends on %s", async (signal) => {
  const child = spawn("--username", "artist", "--password-env", "ENGINE_SECRET");
  const url = `http://127.0.0.1:${await readPort(child.stdout)}/system_stats`;
  expect((await fetch(url)).status).toBe(401);
  const authorization = `Basic ${btoa("artist:secret")}`;
  expect((await fetch(url, { headers: { authorization } })).status).toBe(200);
  child.kill(signal);
  expect(await child.exited).toBe(0);
});

test("with --stdin ends when its stdin does", async () => {
  const child = spawn("--stdin");
  expect(await readPort(child.stdout)).toBeGreaterThan(0);
  child.stdin.end();
  expect(await child.exited).toBe(0);
});

test("refuses arguments that make no sense", async () => {
  const child = spawn("--step-ms", "soon");
  expect(await child.exited).toBe(2);
  expect(await new Response(child.stderr).text()).toContain("--step-ms");
});

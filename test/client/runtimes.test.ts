/** The client where it is not Bun's: from its source in Deno, bundled in Node. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { password } from "../helpers/app.ts";
import { startClients } from "../helpers/client.ts";

const { app, url } = await startClients();
const source = join(import.meta.dirname, "journey.ts");
const root = join(import.meta.dirname, "../..");
await app.make("tags", (await app.signUp()).token, { name: "動物" });

test.each([
  {
    runtime: "Deno",
    command: () => [join(root, "node_modules/deno/deno"), "run", "--no-check", "--no-lock", "--allow-net", source],
  },
  { runtime: "Node", command: async () => ["node", await bundle()] },
])("in $runtime it logs in, uploads, lists, creates, patches, watches and deletes", async ({ command }) => {
  const { email } = await app.signUp();
  const child = Bun.spawn([...(await command()), url, email, password], { cwd: root, stderr: "pipe" });
  const [said, complaints, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect([code, complaints]).toEqual([0, expect.any(String)]);
  expect(JSON.parse(said)).toEqual([
    ["動物"],
    email,
    [1, "布穀鳥", 1],
    1,
    ["first", "precondition-failed"],
    ["first", "second"],
    401,
  ]);
});

/** Node runs TypeScript by itself only from 22.18 on. */
async function bundle(): Promise<string> {
  const { outputs } = await Bun.build({
    entrypoints: [source],
    target: "node",
    format: "esm",
    outdir: app.directory,
    naming: "[name].mjs",
  });
  return outputs[0]?.path ?? "";
}

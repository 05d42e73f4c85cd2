/**
 * `bun run watch NAME/ID`: follows one object of a running Atelier in the terminal, with a progress bar for what is
 * being made. Exit code 0 on success, 1 when there is none to come, 130 after Ctrl-C.
 */
import { ConfigError, readClientConfig } from "./config.ts";
import { createClient, Refused } from "./watch/client.ts";
import { createScreen } from "./watch/screen.ts";
import { isWork, watch } from "./watch/watch.ts";

const usage = "Usage: bun run watch NAME/ID, for example models/1, images/7 or tasks/3";

// `watch … | head` closes our output early, and that is no error.
process.stdout.on("error", () => process.exit(0));

const interrupted = new AbortController();
let signalCode = 130;
process.on("SIGINT", () => interrupted.abort());
process.on("SIGTERM", () => {
  signalCode = 143;
  interrupted.abort();
});

const screen = createScreen(process.stdout, !process.env.NO_COLOR);
let code = 0;
try {
  const config = readClientConfig(process.env);
  const [, name, id] = /^\/?(?:api\/)?([a-z]+)\/([\w-]+)$/.exec(process.argv[2] ?? "") ?? [];
  if (!name || !id || process.argv.length > 3) throw new Refused(usage);
  const outcome = await watch(createClient(config), { name, id }, screen, interrupted.signal);
  if (isWork(name) && outcome !== "success") code = 1;
} catch (error) {
  screen.end();
  if (interrupted.signal.aborted) code = signalCode;
  else {
    if (!(error instanceof Refused || error instanceof ConfigError)) throw error;
    process.stderr.write(`${error.message}\n`);
    code = 1;
  }
}
process.exit(code);

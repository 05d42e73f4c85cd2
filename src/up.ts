/**
 * `bun run up`: the whole system on one machine. Takes DATA_DIR, starts the database and the demo engines, migrates
 * and seeds, starts the API and a worker, and stays to keep them alive; stops them in order when it is told to, or
 * when whoever launched it has gone.
 */
import { ConfigError, readConfig } from "./config.ts";
import { DatabaseError } from "./db/client.ts";
import { type House, openHouse } from "./up/house.ts";
import { watchLauncher } from "./up/launcher.ts";
import { formatSummary } from "./up/summary.ts";
import { UpError } from "./up/up-error.ts";

// The terminal or the launcher that read our output may go before us; that must not stop us from stopping.
process.stdout.on("error", () => {});
process.stderr.on("error", () => {});

const aborted = new AbortController();
let failure: string | null = null;
let house: House | null = null;

/** The first reason counts; a null line means that we were asked to stop. */
function end(line: string | null): void {
  if (aborted.signal.aborted) return;
  failure = line;
  aborted.abort();
}

/** npm and `bun run` pass a Ctrl-C on that the terminal has sent us already: one keystroke, several signals. */
const sameKeystrokeMs = 800;
let firstSignalAt = 0;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    firstSignalAt ||= Date.now();
    if (signal === "SIGINT" && Date.now() - firstSignalAt > sameKeystrokeMs) {
      house?.kill();
      process.exit(130);
    }
    end(null);
  });
}
watchLauncher(() => end(null));

try {
  const config = readConfig(process.env);
  house = openHouse(config, { signal: aborted.signal, onGiveUp: end });
  const summary = await house.start();
  process.stdout.write(`${formatSummary(summary, Boolean(process.stdout.isTTY) && !process.env.NO_COLOR)}\n`);
  await new Promise((stopped) => aborted.signal.addEventListener("abort", stopped, { once: true }));
} catch (error) {
  const isTold = error instanceof UpError || error instanceof DatabaseError || error instanceof ConfigError;
  if (!aborted.signal.aborted) end(isTold ? error.message : ((error as Error).stack ?? String(error)));
}
await house?.stop();
if (failure) process.stderr.write(`${failure}\n`);
process.exit(failure ? 1 : 0);

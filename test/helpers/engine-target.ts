/** The real engine that the opt-in tests run against, named in the environment. */
import { test } from "bun:test";
import type { EngineTarget } from "../../src/drivers/driver.ts";

/** Null when `variable` is unset; a skipped test then says what to set. A log-in may stand in the URL. */
export function engineTarget(variable: string, example: string): EngineTarget | null {
  const address = process.env[variable];
  if (!address) {
    test.skip(`no engine named: set ${variable}, for example ${variable}=${example} bun run test:engines`, () => {});
    return null;
  }
  const url = new URL(address);
  const tls = url.protocol === "https:";
  return {
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: Number(url.port || (tls ? 443 : 80)),
    tls,
    username: decodeURIComponent(url.username) || undefined,
    password: decodeURIComponent(url.password) || undefined,
  };
}

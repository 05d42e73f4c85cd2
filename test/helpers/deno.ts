/**
 * The API in a process of Deno, as `bun run start:deno` starts it, on a test's own database: `bun run test:deno` sends
 * there what tests else ask the app in their own process.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import manifest from "../../package.json" with { type: "json" };
import type { Config } from "../../src/config.ts";

export const isOnDeno = process.env.ATELIER_TEST_RUNTIME === "deno";

export interface DenoApi {
  port: number;
  /** Whoever asks through here comes from `address`, as behind a trusted proxy. */
  fetch(request: Request, address: string): Promise<Response>;
  stop(): Promise<void>;
}

export async function startDeno(config: Config, databaseUrl: string, secretKey: string): Promise<DenoApi> {
  // Without the shell that starts the program: it passes no signal on, and would leave the API running.
  const [, ...command] = manifest.scripts["start:deno"].split(" ");
  const child = Bun.spawn(command, {
    cwd: join(import.meta.dirname, "../.."),
    env: {
      ...process.env,
      HOST: "127.0.0.1",
      PORT: "0",
      PUBLIC_URL: config.publicUrl,
      DATABASE_URL: databaseUrl,
      DATA_DIR: config.dataDir,
      SECRET_KEY: secretKey,
      SIGNUP: config.isSignupOpen ? "open" : "closed",
      ALLOWED_ORIGINS: config.allowedOrigins.join(),
      TRUSTED_PROXIES: ["127.0.0.1", ...config.trustedProxies].join(),
      RATE_LIMIT_READS: String(config.rateLimits.reads),
      RATE_LIMIT_WRITES: String(config.rateLimits.writes),
      SOCKETS_PER_USER: String(config.socketLimits.perUser),
      SOCKETS_PER_ADDRESS: String(config.socketLimits.perAddress),
      USER_QUOTA_BYTES: String(config.userQuotaBytes),
      MAX_WAITING_PER_USER: String(config.maxWaitingPerUser),
      MAX_RUNNING_PER_USER: String(config.maxRunningPerUser),
      S3_ENDPOINT: config.s3?.endpoint,
      S3_BUCKET: config.s3?.bucket,
      S3_ACCESS_KEY_ID: config.s3?.accessKeyId,
      S3_SECRET_ACCESS_KEY: config.s3?.secretAccessKey,
      METRICS_TOKEN: config.metricsToken ?? "",
      LOG_LEVEL: "info",
    },
    stdout: "ignore",
    stderr: "pipe",
  });
  const port = await new Promise<number>((resolve, reject) => {
    // Read to the end: a full pipe would hold the process up.
    const lines = createInterface({ input: Readable.fromWeb(child.stderr as never) });
    lines.on("line", (line) => {
      const said = line.startsWith("{") ? JSON.parse(line) : null;
      if (said?.msg === "the API listens") resolve(said.port);
      else if (!said || said.level >= 50) process.stderr.write(`${line}\n`);
    });
    lines.on("close", () => reject(new Error("the API on Deno has ended")));
  });
  return {
    port,
    fetch(request, address) {
      const url = new URL(request.url);
      const forwarded = request.headers.get("x-forwarded-for");
      const headers = new Headers(request.headers);
      headers.set("X-Forwarded-For", forwarded ? `${forwarded}, ${address}` : address);
      headers.set("Host", url.host);
      if (!headers.has("User-Agent")) headers.set("User-Agent", "");
      const { method, body } = request;
      const target = `http://127.0.0.1:${port}${url.pathname}${url.search}`;
      return fetch(target, { method, headers, body, redirect: "manual", decompress: false });
    },
    async stop() {
      child.kill("SIGTERM");
      await child.exited;
    },
  };
}

/** The environment, parsed once. The only reader of the environment; everything else gets a Config handed down. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { isNetwork } from "./auth/address.ts";

const port = z.coerce.number().int().min(0).max(65535);
const list = z
  .string()
  .default("")
  .transform((text) => text.split(",").flatMap((part) => part.trim() || []));
const networks = list.refine((all) => all.every(isNetwork), "must be addresses or networks (10.0.0.0/8)");
const optional = z
  .string()
  .optional()
  .transform((text) => text?.trim() || undefined);

const environment = z.object({
  HOST: z.string().min(1).default("127.0.0.1"),
  PORT: port.default(3000),
  PUBLIC_URL: optional.pipe(z.url({ protocol: /^https?$/ }).optional()),
  DATABASE_URL: optional.pipe(z.url({ protocol: /^postgres(ql)?$/ }).optional()),
  DATA_DIR: z.string().min(1).default(".data"),
  S3_ENDPOINT: optional.pipe(z.url({ protocol: /^https?$/ }).optional()),
  S3_BUCKET: optional,
  S3_REGION: z.string().min(1).default("us-east-1"),
  S3_ACCESS_KEY_ID: optional,
  S3_SECRET_ACCESS_KEY: optional,
  SECRET_KEY: optional.pipe(z.string().min(32, "must have at least 32 characters").optional()),
  NEW_SECRET_KEY: optional.pipe(z.string().min(32, "must have at least 32 characters").optional()),
  ADMIN_EMAIL: optional.pipe(z.email().optional()),
  ADMIN_PASSWORD: optional.pipe(z.string().min(8).max(128).optional()),
  SIGNUP: z.enum(["open", "closed"]).default("open"),
  ALLOWED_ORIGINS: list,
  TRUSTED_PROXIES: networks,
  WEBHOOK_NETWORKS: networks,
  RATE_LIMIT_READS: z.coerce.number().int().min(0).default(120_000),
  RATE_LIMIT_WRITES: z.coerce.number().int().min(0).default(30_000),
  SOCKETS_PER_USER: z.coerce.number().int().min(0).default(10_000),
  SOCKETS_PER_ADDRESS: z.coerce.number().int().min(0).default(20_000),
  USER_QUOTA_BYTES: z.coerce.number().int().min(0).default(0),
  METRICS_TOKEN: optional.pipe(
    z
      .string()
      .regex(/^[\x21-\x7e]+$/, "must be visible ASCII, without spaces")
      .optional(),
  ),
  DEMO_ENGINES: z.coerce.number().int().min(0).max(16).default(2),
  WORKER_CONCURRENCY: z.coerce.number().int().min(1).max(1000).default(8),
  MODEL_CACHE_GB: z.coerce.number().min(0).default(100),
  MAX_RUNNING_PER_USER: z.coerce.number().int().min(1).default(1000),
  MAX_WAITING_PER_USER: z.coerce.number().int().min(1).default(10_000),
  LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"]).default("info"),
});

export type Config = ReturnType<typeof readConfig>;

/** Refused settings, one line each; entry points print it and exit 1. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/**
 * @param env usually `process.env`; empty strings count as unset
 * @throws ConfigError naming every wrong variable
 */
export function readConfig(env: Record<string, string | undefined>) {
  const e = parse(environment, env);
  if (e.S3_ENDPOINT && !(e.S3_BUCKET && e.S3_ACCESS_KEY_ID && e.S3_SECRET_ACCESS_KEY)) {
    throw new ConfigError("S3_ENDPOINT is set: S3_BUCKET, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY must be set too");
  }
  return {
    host: e.HOST,
    port: e.PORT,
    /** Base of every URL we hand out, without a slash at the end. */
    publicUrl: (e.PUBLIC_URL ?? `http://${e.HOST.includes(":") ? `[${e.HOST}]` : e.HOST}:${e.PORT}`).replace(
      /\/+$/,
      "",
    ),
    /** Null: the embedded PostgreSQL under `dataDir`. */
    databaseUrl: e.DATABASE_URL ?? null,
    dataDir: resolve(e.DATA_DIR),
    s3:
      e.S3_ENDPOINT && e.S3_BUCKET && e.S3_ACCESS_KEY_ID && e.S3_SECRET_ACCESS_KEY
        ? {
            endpoint: e.S3_ENDPOINT,
            bucket: e.S3_BUCKET,
            region: e.S3_REGION,
            accessKeyId: e.S3_ACCESS_KEY_ID,
            secretAccessKey: e.S3_SECRET_ACCESS_KEY,
          }
        : null,
    /** Null: made once in `dataDir`, see `readSecretKey`. */
    secretKey: e.SECRET_KEY ?? null,
    /** For `rotate-key` alone; null: it makes one. */
    newSecretKey: e.NEW_SECRET_KEY ?? null,
    adminEmail: e.ADMIN_EMAIL ?? null,
    adminPassword: e.ADMIN_PASSWORD ?? null,
    isSignupOpen: e.SIGNUP === "open",
    allowedOrigins: e.ALLOWED_ORIGINS,
    trustedProxies: e.TRUSTED_PROXIES,
    /** Requests a minute of one caller in one process; 0 is no limit. */
    rateLimits: { reads: e.RATE_LIMIT_READS, writes: e.RATE_LIMIT_WRITES },
    /** Private addresses and networks that webhooks may go to. */
    webhookNetworks: e.WEBHOOK_NETWORKS,
    /** Connections that one user and one address may hold open in one process; 0 is no limit. */
    socketLimits: { perUser: e.SOCKETS_PER_USER, perAddress: e.SOCKETS_PER_ADDRESS },
    /** What one user's files may take; 0 is no limit. */
    userQuotaBytes: e.USER_QUOTA_BYTES,
    metricsToken: e.METRICS_TOKEN ?? null,
    demoEngines: e.DEMO_ENGINES,
    workerConcurrency: e.WORKER_CONCURRENCY,
    /** Tasks of one user: of one type running at once, and not yet running. */
    maxRunningPerUser: e.MAX_RUNNING_PER_USER,
    maxWaitingPerUser: e.MAX_WAITING_PER_USER,
    maxPlacedBytes: e.MODEL_CACHE_GB * 1e9,
    logLevel: e.LOG_LEVEL,
  };
}

const clientEnvironment = z.object({
  ATELIER_URL: z.url({ protocol: /^https?$/ }).default("http://127.0.0.1:3000"),
  // As tokens are made; anything else could not be sent, and an error about it might show it.
  ATELIER_TOKEN: optional.pipe(
    z
      .string()
      .regex(/^[\w-]+$/, "is no token")
      .optional(),
  ),
});

/** Every variable and its default as text (null: none), for the README's table. */
export function listSettings(): { name: string; value: string | null }[] {
  return [environment, clientEnvironment].flatMap(({ shape }) =>
    Object.entries(shape).map(([name, schema]) => {
      const value = schema.parse(undefined);
      return { name, value: value === undefined || String(value) === "" ? null : String(value) };
    }),
  );
}

/**
 * What clients of ours read: where the API is, and the token to show there (null: a guest).
 *
 * @throws ConfigError naming every wrong variable
 */
export function readClientConfig(env: Record<string, string | undefined>): { url: string; token: string | null } {
  const { ATELIER_URL, ATELIER_TOKEN } = parse(clientEnvironment, env);
  return { url: ATELIER_URL.replace(/\/+$/, ""), token: ATELIER_TOKEN ?? null };
}

function parse<Shape extends z.ZodType>(shape: Shape, env: Record<string, string | undefined>): z.output<Shape> {
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ""));
  const parsed = shape.safeParse(given);
  if (parsed.success) return parsed.data;
  throw new ConfigError(parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; "));
}

/**
 * The key that everything secret is derived from: `SECRET_KEY`, or a random one kept in `DATA_DIR/secret-key` (mode
 * 0600), made by whichever process comes first.
 */
export function readSecretKey(config: Config): string {
  if (config.secretKey) return config.secretKey;
  mkdirSync(config.dataDir, { recursive: true });
  const path = secretKeyPath(config.dataDir);
  try {
    writeFileSync(path, randomBytes(32).toString("base64url"), { flag: "wx", mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  return readFileSync(path, "utf8").trim();
}

export function secretKeyPath(dataDir: string): string {
  return join(dataDir, "secret-key");
}

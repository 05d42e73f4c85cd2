/** Calls to the S3 store: the SDK loaded late, every call limited in time, failures made problems. */
import { setTimeout as pause } from "node:timers/promises";
import type { S3Client } from "@aws-sdk/client-s3";
import { Problem } from "../problems.ts";
import { unavailable } from "./spool.ts";

export interface S3Options {
  endpoint: string;
  bucket: string;
  region: string;
  accessKeyId: string;
  secretAccessKey: string;
  /** For a call without a body to speak of. */
  callTimeoutMs?: number;
}

type Sdk = typeof import("@aws-sdk/client-s3");
type Call<T> = (client: S3Client, sdk: Sdk, options: { abortSignal: AbortSignal }) => Promise<T>;

/** The slowest transfer, or copy within the store, that still counts as one. */
const slowestBytesPerMs = 256;

/**
 * On @aws-sdk/client-s3 rather than Bun.S3Client: it runs on every runtime, knows multipart copies, and signs response
 * headers into URLs. Loading it takes a few hundred milliseconds, which a process without S3 must not pay, so it is
 * imported at the first call.
 */
export function createS3Caller(options: S3Options) {
  let loaded: Promise<{ sdk: Sdk; client: S3Client }> | null = null;
  const load = () => {
    loaded ??= import("@aws-sdk/client-s3").then((sdk) => ({ sdk, client: openClient(sdk, options) }));
    return loaded;
  };

  /**
   * Every failure is a problem, with the SDK's error as its cause; `nullOn` picks out the answers that are none.
   *
   * @param bytes how much the call moves: its time limit grows with that. It ends with `run`, so that a body that
   * `run` returns may be read slowly.
   * @param attempts above 1 for a body that is a stream, which the SDK cannot rewind: `run` makes it anew, also when
   * it arrived broken
   * @throws Problem "storage-unavailable"
   */
  async function call<T>(run: Call<T>, { bytes = 0, attempts = 1 } = {}): Promise<T> {
    const { sdk, client } = await load();
    const timeoutMs = (options.callTimeoutMs ?? 15_000) + bytes / slowestBytesPerMs;
    for (let attempt = 1; ; attempt += 1) {
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
      try {
        return await run(client, sdk, { abortSignal: limit.signal });
      } catch (error) {
        const status = statusOf(error);
        const isRefused = status >= 400 && status < 500 && (error as Error).name !== "BadDigest";
        if (attempt >= attempts || isRefused) throw unavailable(error);
        await pause(100 * attempt);
      } finally {
        clearTimeout(timer);
      }
    }
  }

  return { load, call };
}

export type S3Caller = ReturnType<typeof createS3Caller>;

/** For `.catch` after a call: null when the store answered one of these statuses. */
export function nullOn(...statuses: number[]): (error: unknown) => null {
  return (error) => {
    const cause = error instanceof Problem ? (error.cause as Error) : null;
    // A missing bucket is a 404 too, but of the operator's making.
    if (cause && statuses.includes(statusOf(cause)) && cause.name !== "NoSuchBucket") return null;
    throw error;
  };
}

function openClient(sdk: Sdk, { endpoint, region, accessKeyId, secretAccessKey }: S3Options): S3Client {
  return new sdk.S3Client({
    endpoint,
    region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true, // MinIO, Garage and the like have no name per bucket
    // Checksums by default turn streams into aws-chunked bodies, which many S3 stores refuse.
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    logger: silent,
    requestHandler: { connectionTimeout: 5_000 },
  });
}

/** The SDK otherwise warns on the console of each stream it cannot send again: we do that. */
const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };

function statusOf(error: unknown): number {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode ?? 0;
}

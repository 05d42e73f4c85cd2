/** The store that the configuration asks for. */
import { join } from "node:path";
import type { Config } from "../config.ts";
import { createDiskStorage } from "./disk.ts";
import { createS3Storage } from "./s3.ts";
import type { Storage } from "./storage.ts";

/** Touches neither disk nor network: the first call does. */
export function openStorage(config: Pick<Config, "s3" | "dataDir">): Storage {
  if (!config.s3) return createDiskStorage(join(config.dataDir, "files"));
  return createS3Storage({ ...config.s3, temporaryDirectory: temporaryDirectory(config) });
}

/** Where uploads wait until they are stored: within the disk store's own file system, so that they can be linked. */
export function temporaryDirectory(config: Pick<Config, "dataDir">): string {
  return join(config.dataDir, "tmp");
}

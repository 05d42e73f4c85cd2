/** What every job handler gets. */
import type { Logger } from "pino";
import type { Secrets } from "../src/auth/secrets.ts";
import type { Sql } from "../src/db/client.ts";
import type { RemoteOptions } from "../src/storage/fetch-remote.ts";
import type { Storage } from "../src/storage/storage.ts";
import type { WebhookGuard } from "../src/webhooks/guard.ts";

export interface JobDeps {
  sql: Sql;
  storage: Storage;
  secrets: Secrets;
  log: Logger;
  /** For tests, whose remote pictures lie on a loopback; the defaults are the safe ones. */
  remote?: RemoteOptions;
  /** What one user's files may take; 0, or left out, is no limit. */
  userQuotaBytes?: number;
  /** What our models may take on one server whose files we can remove; left out, there is no limit. */
  maxPlacedBytes?: number;
  webhooks: Pick<WebhookGuard, "addressesOf">;
  workerId: string;
  /** Aborted when the worker stops: what another can do as well is left to it. */
  stopping: AbortSignal;
  /** Where files wait until they are stored. */
  temporaryDirectory: string;
}

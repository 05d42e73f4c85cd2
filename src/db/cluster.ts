/** Making a cluster, and the settings it runs with. */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { DatabaseError } from "./client.ts";
import { giveTo, type RunAs, runAs } from "./system-user.ts";

export const superuser = "atelier";

/** The package's major version; a cluster of another one cannot be opened. */
const majorVersion = "18";

/**
 * The cluster in `place/data`, made at the first start. It is made aside and renamed: one that exists is whole, and
 * what an initdb left that was killed in the middle is thrown away.
 *
 * @returns the superuser's password, kept beside the data
 */
export async function ensureCluster(
  place: string,
  user: RunAs,
  binaries: Binaries,
  isThrowaway: boolean,
): Promise<string> {
  const data = join(place, "data");
  const password = join(place, "password");
  for (const name of readdirSync(place)) {
    if (name.startsWith("new-")) removeIfPossible(join(place, name));
  }
  if (!existsSync(data)) {
    const aside = join(place, `new-${randomBytes(4).toString("hex")}`);
    mkdirSync(aside, { mode: 0o700 });
    giveTo(user, aside);
    rmSync(password, { force: true });
    writeFileSync(password, randomBytes(24).toString("base64url"), { mode: 0o600, flag: "wx" });
    giveTo(user, password); // initdb reads it as that user
    await initialise(aside, password, user, binaries, isThrowaway);
    renameSync(aside, data);
  }
  const version = readFileSync(join(data, "PG_VERSION"), "utf8").trim();
  if (version !== majorVersion) {
    throw new DatabaseError(
      `${data} is of PostgreSQL ${version}, this is ${majorVersion}: dump it with the old release first`,
    );
  }
  return readFileSync(password, "utf8").trim();
}

/** An initdb whose parent was killed may still be writing there; what it leaves then goes at the next start. */
function removeIfPossible(directory: string): void {
  try {
    rmSync(directory, { recursive: true, force: true });
  } catch {
    // Its name is random, so it is in nobody's way.
  }
}

/**
 * The builtin provider sorts by code point, alike on every machine and every libc, and folds all of Unicode. The
 * classes of characters that text search uses still come from libc in PostgreSQL 18, and its C locale knows ASCII
 * only, so LC_CTYPE is a UTF-8 one, under the name it has here.
 */
async function initialise(
  data: string,
  password: string,
  user: RunAs,
  binaries: Binaries,
  isThrowaway: boolean,
): Promise<void> {
  let error = "";
  for (const ctype of ["C.UTF-8", "en_US.UTF-8", "UTF-8"]) {
    const made = await runAs(user, binaries.initdb, [
      ...["-D", data, "-U", superuser, `--pwfile=${password}`, "--auth=scram-sha-256", "--encoding=UTF8"],
      ...["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", `--lc-ctype=${ctype}`],
      ...["--no-instructions", ...(isThrowaway ? ["--no-sync"] : [])],
    ]);
    if (made.isOk) return;
    error = made.error;
    if (!error.includes("locale")) break;
  }
  throw new DatabaseError(`initdb failed in ${data}: ${error}`);
}

/**
 * The arguments of `postgres`. Given at each start rather than written into postgresql.conf, so that a new release's
 * settings reach old clusters.
 */
export function serverArguments(data: string, port: number, isThrowaway: boolean): string[] {
  const settings: Record<string, string | number> = {
    listen_addresses: "127.0.0.1",
    port,
    // A socket's path is limited to 107 bytes, and DATA_DIR may be anywhere.
    unix_socket_directories: "",
    max_connections: 200,
    shared_buffers: isThrowaway ? "128MB" : "256MB",
    // Solid-state disks: an index is worth it sooner than the default of 4, made for spinning ones, believes.
    random_page_cost: 1.1,
    wal_compression: "on",
    // No replicas here, and minimal writes less.
    wal_level: "minimal",
    max_wal_senders: 0,
    jit: "off",
    TimeZone: "UTC",
    log_timezone: "UTC",
    // Ends the queries of an API that was killed.
    client_connection_check_interval: "10s",
    // Errors of statements reach the client, who logs them; here they would only fill the disk, with values in them.
    log_min_messages: "log",
    log_min_error_statement: "panic",
    log_checkpoints: "off",
    ...(isThrowaway
      ? { fsync: "off", synchronous_commit: "off", full_page_writes: "off", autovacuum: "off", max_wal_size: "4GB" }
      : {}),
  };
  return ["-D", data, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
}

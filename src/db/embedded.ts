/** The PostgreSQL that comes along: one cluster for each DATA_DIR, reachable from this machine only. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { findBinaries } from "./binaries.ts";
import { connect, DatabaseError } from "./client.ts";
import { ensureCluster, superuser } from "./cluster.ts";
import { findPlace, ownerOf } from "./place.ts";
import { endOrphan, startPostmaster } from "./postmaster.ts";
import { isAlive, ownProcess, type ProcessId } from "./process-table.ts";
import { findDatabaseUser } from "./system-user.ts";

const database = "atelier";

/** What is kept in `DATA_DIR/database.json`, mode 0600: how to reach the server, and what the next start reuses. */
interface State {
  port: number;
  /** Where the cluster is; not below DATA_DIR if the user who runs it cannot go there. */
  place: string;
  url: string;
  /** The server's process, and who started it; null when it was stopped. */
  server: ProcessId | null;
  owner: ProcessId | null;
}

export interface Embedded {
  url: string;
  /** Where the data are, for people to read. */
  place: string;
  /** Settles when the server is gone, wanted or not. */
  exited: Promise<void>;
  /** Ends the server cleanly; by force after some seconds. May run twice. */
  stop(): Promise<void>;
  /** Ends the server at once, without waiting; the next start will have to recover. */
  kill(): void;
}

/**
 * Starts the cluster of `directory` (made if need be), ending first what a killed owner left running there.
 *
 * @param isThrowaway for tests: gives up durability for speed; `directory` is deleted at the stop, or when we die
 * @throws DatabaseError in one line; then nothing is left running
 */
export async function startEmbedded(options: { directory: string; isThrowaway?: boolean }): Promise<Embedded> {
  const { isThrowaway = false } = options;
  try {
    mkdirSync(options.directory, { recursive: true });
  } catch (error) {
    throw new DatabaseError(`${options.directory} cannot be made: ${(error as Error).message}`);
  }
  const directory = realpathSync(options.directory);
  const state = readState(directory);
  if (state?.owner && state.server && isAlive(state.owner) && isAlive(state.server)) {
    throw new DatabaseError(`the database of ${directory} is in use by process ${state.owner.pid}`);
  }
  const place = await findPlace(directory, findDatabaseUser(), state?.place ?? null);
  const user = ownerOf(place, findDatabaseUser());
  // Written before there is a cluster elsewhere, so that a first start which is killed leaves a way back to it.
  const facts = { port: state?.port ?? 0, place, url: "", server: null, owner: null };
  writeState(directory, facts);
  const binaries = await findBinaries(user);
  const stalePid = await endOrphan(join(place, "data"));
  const password = await ensureCluster(place, user, binaries, isThrowaway);

  const throwaway = isThrowaway ? [place, directory] : [];
  const start = (port: number) => startPostmaster({ place, port, user, binaries, throwaway, stalePid });
  const { server, port } = await startSomewhere(start, facts.port);
  const url = `postgres://${superuser}:${password}@127.0.0.1:${port}/${database}`;
  try {
    await ensureDatabase(url);
    writeState(directory, {
      port,
      place,
      url,
      server: { pid: server.pid, started: server.started },
      owner: ownProcess(),
    });
  } catch (error) {
    await server.stop();
    throw error;
  }
  let stopping: Promise<void> | undefined;
  const stop = async () => {
    await server.stop();
    for (const path of throwaway) rmSync(path, { recursive: true, force: true });
    if (!isThrowaway) writeState(directory, { port, place, url, server: null, owner: null });
  };
  return { url, place, exited: server.exited, stop: () => (stopping ??= stop()), kill: server.kill };
}

/** The URL of the embedded server that runs on `dataDir`, or null when none does (or it is not ours to read). */
export function findEmbedded(dataDir: string): string | null {
  const state = readState(dataDir);
  return state?.server && isAlive(state.server) ? state.url : null;
}

/** Tries the port of the last time first, so that a URL someone noted stays right. */
async function startSomewhere(start: (port: number) => ReturnType<typeof startPostmaster>, known: number) {
  const memoryDeadline = Date.now() + 10_000;
  let port = known && (await isFree(known)) ? known : await findFreePort();
  for (let tries = 0; ; ) {
    const result = await start(port);
    if (typeof result === "object" && "pid" in result) return { server: result, port };
    if (result === "memory-in-use" && Date.now() < memoryDeadline) {
      await Bun.sleep(200);
    } else if (result === "port-taken" && ++tries < 5) {
      port = await findFreePort();
    } else {
      throw new DatabaseError(typeof result === "object" ? result.message : `PostgreSQL did not start: ${result}`);
    }
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

/** Made at each start if missing, not in initdb's wake: a start may be killed between the two. */
async function ensureDatabase(url: string): Promise<void> {
  const own = connect(url, { max: 1 });
  try {
    await own`select 1`;
  } catch (error) {
    if ((error as { code?: string }).code !== "3D000") throw error;
    const other = new URL(url);
    other.pathname = "/postgres";
    const admin = connect(other.href, { max: 1 });
    await admin.unsafe(`create database ${database}`).finally(() => admin.end());
  } finally {
    await own.end();
  }
}

function readState(directory: string): State | null {
  try {
    return JSON.parse(readFileSync(join(directory, "database.json"), "utf8"));
  } catch {
    return null;
  }
}

/** Renamed into place, so that a reader sees the old facts or the new ones, never half of them. */
function writeState(directory: string, state: State): void {
  const path = join(directory, "database.json");
  const aside = `${path}.${randomBytes(4).toString("hex")}`;
  try {
    writeFileSync(aside, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600, flag: "wx" });
    renameSync(aside, path);
  } catch (error) {
    rmSync(aside, { force: true });
    throw new DatabaseError(`${path} cannot be written: ${(error as Error).message}`);
  }
}

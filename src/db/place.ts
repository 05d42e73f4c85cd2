/**
 * Where a cluster lives: below DATA_DIR if the user who runs PostgreSQL can reach it, else in a directory of root's.
 * The place itself belongs to us, only `data` in it to that user: nothing that root opens there can be made a link.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { ownDirectory, sharedPlaces } from "./binaries.ts";
import { DatabaseError } from "./client.ts";
import { giveTo, type RunAs, runAs } from "./system-user.ts";

/**
 * The directory for the cluster of `dataDir`, existing and reachable by `user`.
 *
 * @param known where it was the last time, from the state file; null at the first start, so that deleting DATA_DIR
 *   means an empty database even if the data were elsewhere
 */
export async function findPlace(dataDir: string, user: RunAs, known: string | null): Promise<string> {
  const near = join(dataDir, "postgres");
  if (known && known !== near && !existsSync(join(near, "data"))) {
    if (existsSync(join(known, "data"))) return known;
    throw new DatabaseError(
      `the database of ${dataDir} was in ${known}, which is gone; to start with an empty one, delete ${join(dataDir, "database.json")}`,
    );
  }
  const refusal = await prepare(near, user);
  if (!refusal) return near;
  if (existsSync(join(near, "data"))) throw new DatabaseError(`the database in ${near} cannot be used: ${refusal}`);
  for (const place of user ? sharedPlaces : []) {
    const elsewhere = join(place, randomBytes(8).toString("hex"));
    if (ownDirectory(place) && !(await prepare(elsewhere, user))) return elsewhere;
  }
  throw new DatabaseError(
    user
      ? `the user that runs PostgreSQL (uid ${user.uid}) cannot reach ${near}, nor a directory below ${sharedPlaces.join(" or ")}`
      : `${near} cannot be written: ${refusal}`,
  );
}

/** As whom the cluster in `place` must run: as the one who owns its files, if there are any, else as `user`. */
export function ownerOf(place: string, user: RunAs): RunAs {
  const stat = statSync(join(place, "data"), { throwIfNoEntry: false });
  return user && stat && stat.uid !== 0 ? { uid: stat.uid, gid: stat.gid } : user;
}

/** Null when `user` can keep a cluster in `place`, else why not. Tried by really writing there as that user. */
async function prepare(place: string, user: RunAs): Promise<string | null> {
  const probe = join(place, "probe");
  let refusal: string | null = null;
  try {
    mkdirSync(place, { recursive: true, mode: 0o711 });
    chmodSync(place, 0o711);
    rmSync(probe, { recursive: true, force: true });
    mkdirSync(probe, { mode: 0o700 });
    giveTo(user, probe);
    const tried = await runAs(user, "/bin/sh", ["-c", 'cd "$1" && : > file', "sh", probe]);
    if (!tried.isOk) refusal = tried.error;
  } catch (error) {
    refusal = (error as Error).message;
  }
  rmSync(probe, { recursive: true, force: true });
  if (refusal && existsSync(place) && readdirSync(place).length === 0) rmdirSync(place);
  return refusal;
}

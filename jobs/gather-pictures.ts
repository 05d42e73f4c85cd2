/** The pictures that a task needs, brought into our own storage: each with a verdict, whatever becomes of the others. */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { Problem } from "../src/problems.ts";
import { RemoteError, type RemoteFailure } from "../src/remote/request.ts";
import { fetchRemote } from "../src/storage/fetch-remote.ts";
import { readPicture } from "../src/storage/pictures.ts";
import { readAllowance } from "../src/storage/quota.ts";
import { keepPicture } from "../src/storage/records.ts";
import { spool } from "../src/storage/spool.ts";
import type { JobDeps } from "./handler.ts";

/** Remote pictures fetched at once. */
const parallel = 8;
/** Pixels of the shorter side: below, there is nothing to learn or to begin with. */
export const leastSide = 32;
const filePrefix = "/api/files/";

export type Fault = "too small" | "too large" | "not an image" | "unreachable" | "forbidden" | "over quota";

export type Verdict =
  | { url: string; status: "ok"; detail: null; key: string; hash: string }
  | { url: string; status: Fault; detail: string };

const faultOf: Record<RemoteFailure, Fault> = {
  unreachable: "unreachable",
  "not-found": "unreachable",
  "timed-out": "unreachable",
  "too-many-redirects": "unreachable",
  "forbidden-address": "forbidden",
  "too-large": "too large",
};

/** What is ours is judged, what is remote is fetched, several at once. @returns verdicts in the URLs' order */
export async function gatherPictures(deps: JobDeps, urls: string[], userId: number): Promise<Verdict[]> {
  const { sql, temporaryDirectory, userQuotaBytes = 0 } = deps;
  await mkdir(temporaryDirectory, { recursive: true });
  const budget = { left: await readAllowance(sql, userId, userQuotaBytes) };
  const verdicts: Verdict[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < urls.length; index = next++) {
      const url = urls[index] as string;
      verdicts[index] = url.startsWith(filePrefix)
        ? await judgeStored(deps, url, userId)
        : await fetchPicture(deps, url, userId, budget);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return verdicts;
}

async function judgeStored({ sql }: JobDeps, url: string, userId: number): Promise<Verdict> {
  const [file] = await sql<{ key: string; hash: string; width: number; height: number }[]>`
    select f.key, f.hash, f.width, f.height
    from files f
    join users u on u.id = ${userId}
    where f.key = ${url.slice(filePrefix.length)}
      and (f.user_id = u.id or u.admin or is_file_public(f.key, f.user_id))
  `;
  if (!file) return { url, status: "unreachable", detail: "The picture is gone, or not yours to see any more." };
  return refuseSmall(url, file) ?? { url, status: "ok", detail: null, key: file.key, hash: file.hash };
}

async function fetchPicture(
  { sql, storage, remote, temporaryDirectory }: JobDeps,
  url: string,
  userId: number,
  budget: { left: number },
): Promise<Verdict> {
  if (budget.left <= 0) return { url, status: "over quota", detail: "Your storage is full." };
  const path = join(temporaryDirectory, randomUUID());
  try {
    const { stream } = await fetchRemote(url, remote);
    await spool(stream, path);
    const picture = await readPicture(path);
    const small = refuseSmall(url, picture);
    if (small) return small;
    const { key, hash, size } = await keepPicture(sql, storage, userId, picture);
    budget.left -= size;
    return { url, status: "ok", detail: null, key, hash };
  } catch (error) {
    if (error instanceof RemoteError) return { url, status: faultOf[error.reason], detail: error.message };
    if (error instanceof Problem && error.status < 500) {
      return { url, status: error.code === "too-large" ? "too large" : "not an image", detail: error.message };
    }
    throw error;
  } finally {
    await rm(path, { force: true });
  }
}

function refuseSmall(url: string, { width, height }: { width: number; height: number }): Verdict | null {
  if (Math.min(width, height) >= leastSide) return null;
  const detail = `It has ${width} × ${height} pixels; the shorter side needs at least ${leastSide}.`;
  return { url, status: "too small", detail };
}

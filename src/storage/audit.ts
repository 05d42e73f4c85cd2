/** Lays the store beside the table of files, both in the order of their keys: what has no row, what has no object. */
import type { Sql } from "../db/client.ts";
import { isOwnKey, readThumbnailKey, thumbnailEdges } from "./keys.ts";
import type { ListedObject, Storage } from "./storage.ts";

export type Finding =
  | { kind: "stray"; key: string; size: number; modifiedAt: Date }
  | { kind: "missing"; key: string; userId: number | null }
  | { kind: "wrong-size"; key: string; size: number; expected: number }
  | { kind: "no-thumbnail"; key: string };

interface FileRow {
  key: string;
  size: number;
  user_id: number | null;
  thumbhash: string | null;
}

/**
 * Every difference, as it is found. What is stored or deleted meanwhile is looked at once more before it is told; a
 * stray may still be an upload whose row is not written yet: its age tells. Memory grows only as the store's list does.
 */
export async function* audit(sql: Sql, storage: Storage): AsyncGenerator<Finding> {
  const uploads = new Set((await sql<{ key: string }[]>`select key from uploads`).map(({ key }) => key));
  const rows = readRows(sql);
  let row = (await rows.next()).value;
  let found: { object: ListedObject | null; thumbnails: number } = { object: null, thumbnails: 0 };
  const advance = async (): Promise<Finding | null> => {
    const finding = row ? await judge(sql, storage, row, found) : null;
    row = (await rows.next()).value;
    found = { object: null, thumbnails: 0 };
    return finding;
  };
  try {
    for await (const object of storage.list()) {
      if (!isOwnKey(object.key)) continue;
      if (object.key.startsWith("pending/")) {
        if (!uploads.has(object.key.split("/")[1] ?? "")) yield { ...object, kind: "stray" };
        continue;
      }
      const { picture, edge } = readThumbnailKey(object.key);
      while (row && row.key < picture) {
        const finding = await advance();
        if (finding) yield finding;
      }
      if (row?.key !== picture) {
        const [late] = await sql`select from files where key = ${picture}`;
        if (!late) yield { ...object, kind: "stray" };
      } else if (edge === null) found.object = object;
      else found.thumbnails += 1;
    }
    while (row) {
      const finding = await advance();
      if (finding) yield finding;
    }
  } finally {
    await rows.return(undefined);
  }
}

/** All rows in the order of the store's lists, a page at a time: no transaction stays open for hours. */
async function* readRows(sql: Sql): AsyncGenerator<FileRow, undefined> {
  for (let after = ""; ; ) {
    const page = await sql<FileRow[]>`
      select key, size, user_id, thumbhash
      from files
      where key collate "C" > ${after}
      order by key collate "C"
      limit 2000
    `;
    yield* page;
    const last = page.at(-1);
    if (!last) return undefined;
    after = last.key;
  }
}

async function judge(
  sql: Sql,
  storage: Storage,
  row: FileRow,
  { object, thumbnails }: { object: ListedObject | null; thumbnails: number },
): Promise<Finding | null> {
  const isThere = async () => (await sql`select from files where key = ${row.key}`).length > 0;
  if (!object) {
    const isMissing = (await storage.get(row.key)) === null && (await isThere());
    return isMissing ? { kind: "missing", key: row.key, userId: row.user_id } : null;
  }
  if (object.size !== row.size) return { kind: "wrong-size", key: row.key, size: object.size, expected: row.size };
  const lacks = row.thumbhash !== null && thumbnails < thumbnailEdges.length;
  return lacks && (await isThere()) ? { kind: "no-thumbnail", key: row.key } : null;
}

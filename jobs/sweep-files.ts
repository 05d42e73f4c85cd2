/**
 * `sweep-files`: once a night, what deletions cannot see: uploads that nothing ever referred to, uploads that were
 * never completed, and objects that a process left behind when it died. May run twice.
 */
import { audit } from "../src/storage/audit.ts";
import { deleteUnused } from "../src/storage/records.ts";
import type { JobDeps } from "./handler.ts";

/** How long an upload may wait to be used. */
const unusedDays = 7;
/** Longer than any upload takes: before, an object may still be waiting for its row. */
const strayMs = 24 * 60 * 60 * 1000;
const batch = 1_000;

export function createSweepFiles({ sql, storage, log }: Pick<JobDeps, "sql" | "storage" | "log">) {
  return async (): Promise<void> => {
    const expired = await sql`delete from uploads where expires_at < now() returning 1`;
    const unused = await deleteNeverUsed();
    const swept = { expired: expired.length, unused, strays: 0 };
    for await (const finding of audit(sql, storage)) {
      if (finding.kind !== "stray") log.error(finding, "a stored file is not as it should be");
      else if (Date.now() - finding.modifiedAt.getTime() > strayMs) {
        await storage.delete(finding.key);
        swept.strays += 1;
      }
    }
    log.info(swept, "swept files");
  };

  /** All files are looked at, in the order of their keys. */
  async function deleteNeverUsed(): Promise<number> {
    let deleted = 0;
    for (let after = ""; ; ) {
      const page = await sql<{ key: string; is_old: boolean }[]>`
        select key,
          coalesce(uploaded_again_at, created_at) < now() - make_interval(days => ${unusedDays}) as is_old
        from files
        where key > ${after}
        order by key
        limit ${batch}
      `;
      const last = page.at(-1);
      if (!last) return deleted;
      after = last.key;
      const old = page.filter(({ is_old }) => is_old).map(({ key }) => key);
      deleted += await deleteUnused(sql, storage, old);
    }
  }
}

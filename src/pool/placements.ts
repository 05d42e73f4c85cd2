/** Which of our model files lie on which server: what dispatch prefers, and what has to go when there are too many. */
import type { Sql } from "../db/client.ts";
import type { Driver, EngineModels, EngineTarget } from "../drivers/driver.ts";

const folders = ["loras", "checkpoints", "embeddings", "hypernetworks"] as const;
/** What was used so lately may be about to be used. */
const freshInterval = "5 minutes";

/** A run with the model has ended well there: the file is on the server. */
export async function notePlacement(tx: Sql, serverId: number, modelKey: string): Promise<void> {
  await tx`
    insert into placements (server_id, hash, bytes)
    select ${serverId}, hash, size from files where key = ${modelKey}
    on conflict (server_id, hash) do update set used_at = now()
  `;
}

/** The server turned out not to have what a task needs. */
export async function forgetPlacement(tx: Sql, serverId: number, taskId: number): Promise<void> {
  await tx`
    delete from placements p
    using tasks t, models m
    where t.id = ${taskId} and m.id = t.model_id and p.server_id = ${serverId} and p.hash = m.hash
  `;
}

/** Our files are called by their hash wherever the engine lists them. */
const hashOf = (name: string): string | null => /(?:^|[\\/])([0-9a-f]{64})(?:\.\w+)?$/.exec(name)?.[1] ?? null;

/** Corrects the index by what the engine lists: it was set up anew, or somebody has cleared its folders. */
export async function correctPlacements(sql: Sql, serverId: number, models: EngineModels): Promise<void> {
  const listed = folders.flatMap((folder) => models[folder].flatMap((name) => hashOf(name) ?? []));
  await sql`
    with gone as (
      delete from placements
      where server_id = ${serverId}
        and hash <> all (${listed}::text[])
        and used_at < now() - interval '1 minute'
    )
    insert into placements (server_id, hash, bytes, used_at)
    select distinct on (f.hash) ${serverId}::int, f.hash, f.size, now() - ${freshInterval}::interval
    from files f
    where f.hash = any (${listed}::text[]) and f.kind = 'model'
    on conflict do nothing
  `;
}

/**
 * Removes the models that were least recently used from a server that holds more than it may, until it does not. Only
 * where we have access to the host's files; what a running task needs stays.
 * @returns how many were removed
 */
export async function evictModels(
  sql: Sql,
  serverId: number,
  driver: Driver,
  target: EngineTarget,
  maxBytes: number,
  signal: AbortSignal,
): Promise<number> {
  const files = driver.hostFiles?.(target);
  if (!files) return 0;
  const [held] = await sql<{ bytes: number }[]>`
    select coalesce(sum(bytes), 0) as bytes from placements where server_id = ${serverId}
  `;
  if ((held?.bytes ?? 0) <= maxBytes) return 0;
  const lists = await Promise.all(
    folders.map(async (folder) => (await files.list(folder, signal)).map((file) => ({ ...file, folder }))),
  );
  const lying = lists.flat().flatMap((file) => {
    const hash = hashOf(file.name);
    return hash === null ? [] : [{ ...file, hash }];
  });
  const uses = await sql<{ hash: string; is_fresh: boolean }[]>`
    select p.hash, p.used_at > now() - ${freshInterval}::interval or exists (
      select from leases l join tasks t on t.id = l.task_id join models m on m.id = t.model_id
      where l.server_id = p.server_id and m.hash = p.hash
    ) as is_fresh
    from placements p
    where p.server_id = ${serverId}
    order by p.used_at
  `;
  let bytes = lying.reduce((sum, file) => sum + file.size, 0);
  let removed = 0;
  // Files that the index does not know belong to nobody any more: they go first.
  const known = new Set(uses.map(({ hash }) => hash));
  const order = [
    ...lying.filter(({ hash }) => !known.has(hash)).map(({ hash }) => ({ hash, is_fresh: false })),
    ...uses,
  ];
  for (const { hash, is_fresh } of order) {
    if (bytes <= maxBytes) break;
    if (is_fresh) continue;
    await sql`delete from placements where server_id = ${serverId} and hash = ${hash}`;
    for (const file of lying.filter((one) => one.hash === hash)) {
      await files.remove(file.folder, file.name, signal);
      bytes -= file.size;
      removed += 1;
    }
  }
  return removed;
}

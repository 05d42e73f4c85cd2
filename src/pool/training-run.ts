/** The last run of a training task: where the engine has saved states, the next attempt goes on from them. */
import type { Sql } from "../db/client.ts";
import type { EngineHandle } from "../drivers/driver.ts";
import type { Lease } from "./lease.ts";

/** The run of an earlier attempt on the same server; null when there was none. */
export async function findTrainingRun(sql: Sql, lease: Lease): Promise<EngineHandle | null> {
  const [row] = await sql<{ handle: EngineHandle }[]>`
    select handle from training_runs where task_id = ${lease.taskId} and server_id = ${lease.serverId}
  `;
  return row?.handle ?? null;
}

/** To be called for a run whose handle is stored already. */
export async function keepTrainingRun(sql: Sql, lease: Lease, handle: EngineHandle): Promise<void> {
  await sql`
    insert into training_runs (task_id, server_id, handle)
    values (${lease.taskId}, ${lease.serverId}, ${sql.json(handle as never)})
    on conflict (task_id) do update set server_id = excluded.server_id, handle = excluded.handle
  `;
}

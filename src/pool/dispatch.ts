/** Dispatch: gives waiting tasks to free slots of servers that can run them. */
import type { Sql } from "../db/client.ts";

/**
 * Leases as many waiting tasks as there are free slots, and adds a job for each in the same transaction. Servers and
 * tasks are locked with `skip locked`, so two dispatchers never give one slot or one task twice. Waiting uses up no
 * attempts: an attempt begins here.
 * @returns how many tasks were leased
 */
export async function dispatch(sql: Sql): Promise<number> {
  return sql.begin(async (tx) => {
    const servers = await tx<{ id: number; type: string; bases: string[]; free: number }[]>`
      select s.id, s.type, array(select jsonb_object_keys(s.checkpoints)) as bases,
        s.slots - (select count(*) from leases l where l.server_id = s.id)::int as free
      from servers s
      where s.status in ('idle', 'ready', 'working')
        and s.slots > (select count(*) from leases l where l.server_id = s.id)
      order by s.id
      for update of s skip locked
    `;
    let leased = 0;
    for (const server of servers) {
      const tasks = await tx<{ id: number }[]>`
        with chosen as (
          select id
          from tasks
          where status = 'waiting'
            and type = ${server.type}
            and base_model = any (${server.bases}::text[])
          order by priority desc, id
          limit ${server.free}
          for update skip locked
        ), started as (
          update tasks t
          set status = 'running', stage = 'loading', progress = 0, server_id = ${server.id},
            attempts = t.attempts + 1, lease_epoch = t.lease_epoch + 1, started_at = now()
          from chosen
          where t.id = chosen.id
          returning t.id, t.lease_epoch
        ), lease as (
          insert into leases (task_id, server_id)
          select id, ${server.id} from started
        )
        select id, graphile_worker.add_job(
          'run-task', json_build_object('task_id', id, 'epoch', lease_epoch), max_attempts := 3
        )
        from started
      `;
      leased += tasks.length;
    }
    return leased;
  }) as Promise<number>;
}

/** A pool of rows alone: servers that were never asked and tasks that nothing runs, for the rules of dispatch. */
import type { Sql } from "../../src/db/client.ts";
import { dispatch } from "../../src/pool/dispatch.ts";

const schedulers = ["DDIM", "K_EULER", "DPMSolverMultistep", "K_EULER_ANCESTRAL", "PNDM", "KLMS"];

export interface ServerFields {
  type?: "train" | "infer";
  slots?: number;
  status?: string;
  bases?: string[];
  apply?: string[];
  train?: string[];
  schedulers?: string[];
  maxUploadBytes?: number | null;
  /** False: never probed. */
  isProbed?: boolean;
  /** Runs of others on its engine. */
  foreign?: number;
}

export interface TaskFields {
  user: number;
  type?: "train" | "infer";
  base?: string;
  priority?: number;
  /** Seconds for which it has been waiting. */
  age?: number;
  scheduler?: string;
  model?: number;
  avoid?: number[];
}

let port = 1000;

export function poolRows(sql: Sql) {
  return {
    async server(fields: ServerFields = {}): Promise<number> {
      port += 1;
      const capabilities = {
        infer: true,
        apply: fields.apply ?? ["lora", "ckp"],
        train: fields.train ?? ["lora"],
        schedulers: fields.schedulers ?? schedulers,
        maxUploadBytes: fields.maxUploadBytes ?? null,
      };
      const bases = Object.fromEntries((fields.bases ?? ["SD1.5"]).map((base) => [base, `${base}.safetensors`]));
      const [row] = await sql<{ id: number }[]>`
        insert into servers ${sql({
          name: `server ${port}`,
          type: fields.type ?? "infer",
          ip: "192.0.2.1",
          port,
          slots: fields.slots ?? 1,
          status: fields.status ?? "ready",
          checkpoints: sql.json(bases),
          facts: sql.json(fields.isProbed === false ? {} : { capabilities }),
          foreign_runs: fields.foreign ?? 0,
        })} returning id
      `;
      return row?.id as number;
    },

    /** A waiting task. */
    async task({ user, type = "infer", base = "SD1.5", priority = 0, age = 0, ...more }: TaskFields): Promise<number> {
      const params =
        type === "infer"
          ? { width: 512, height: 512, scheduler: more.scheduler ?? "K_EULER" }
          : { type: "lora", resolution: 512 };
      const [row] = await sql<{ id: number }[]>`
        insert into tasks (name, type, status, base_model, params, priority, user_id, model_id, avoid, waiting_at)
        values ('task', ${type}, 'waiting', ${base}, ${sql.json(params)}, ${priority}, ${user}, ${more.model ?? null},
          ${more.avoid ?? []}::int[], now() - make_interval(secs => ${age}))
        returning id
      `;
      return row?.id as number;
    },

    /** One round. @returns the tasks that were leased, and to which server each (null: done there), in order of their ids */
    async round({ capacity = 100, maxRunning = 100 } = {}): Promise<[task: number, server: number | null][]> {
      await dispatch(sql, { workerId: "w", capacity, maxRunning });
      const rows = await sql<{ task_id: number; server_id: number | null }[]>`
        select task_id, server_id from leases order by task_id
      `;
      return rows.map((row) => [row.task_id, row.server_id]);
    },

    async end(taskId: number, gpuSeconds = 0): Promise<void> {
      await sql`update leases set created_at = now() - make_interval(secs => ${gpuSeconds}) where task_id = ${taskId}`;
      await sql`select end_attempt(${taskId}, 'success')`;
      await sql`update tasks set status = 'success', finished_at = now() where id = ${taskId}`;
    },

    /** Nothing waits, nothing runs, no server is there. */
    async clear(): Promise<void> {
      await sql`delete from tasks`;
      await sql`delete from servers`;
      await sql`delete from shares`;
      await sql`delete from queues`;
      await sql`update pool set is_paused = false, paused_at = null`;
    },
  };
}

/** Whether there is room for an order: servers that could ever carry it out, and its owner's share of the queue. */
import type { Sql } from "../db/client.ts";
import { type Fault, Problem } from "../problems.ts";
import type { Context } from "../rest/define.ts";

/** What a task would look like to `find_need`, see sql/0030_needs.sql. */
export interface Order {
  type: "train" | "infer";
  base_model: unknown;
  model_id?: unknown;
  params: Record<string, unknown>;
}

export type Obstacle = "base_model" | "model_type" | "scheduler" | "pixels" | "model_megabytes";

const details: Record<Obstacle, (order: Order) => string> = {
  base_model: (order) => `no server has a checkpoint for ${order.base_model}`,
  model_type: (order) =>
    order.type === "train"
      ? `no server can train a model of type ${order.params.type}`
      : "no server can use such a model",
  scheduler: (order) => `no server offers ${order.params.scheduler}`,
  pixels: () => "no server takes so large a picture",
  model_megabytes: () => "the model's file is too large to be sent to any server",
};

/** One look for equal orders of a transaction: a bulk is mostly of the same kind. */
const looks = new WeakMap<Sql, Map<string, Promise<Obstacle[]>>>();

/**
 * Adds a fault for each thing that is missing on every server there is, at the field that asks for it. Nothing is
 * refused while a server has not been probed yet, or while there is none of the type at all: then the task waits.
 */
export async function checkServers(
  { sql }: Context,
  order: Order,
  pointers: Partial<Record<Obstacle, string>>,
  faults: Fault[],
): Promise<void> {
  const known = looks.get(sql) ?? new Map<string, Promise<Obstacle[]>>();
  looks.set(sql, known);
  const key = JSON.stringify(order);
  const look = known.get(key) ?? findObstacles(sql, order);
  known.set(key, look);
  for (const obstacle of await look) {
    faults.push({ pointer: pointers[obstacle] ?? "", detail: details[obstacle](order) });
  }
}

async function findObstacles(sql: Sql, order: Order): Promise<Obstacle[]> {
  const [row] = await sql<{ obstacles: Obstacle[] }[]>`
    select find_obstacles(find_need(jsonb_populate_record(null::tasks, ${sql.json(order as never)}))) as obstacles
  `;
  return row?.obstacles ?? [];
}

/** As many orders of one user may be under way at the same moment without being counted one by one. */
const closeness = 100;

/** @throws Problem "too-many-waiting" when `added` tasks more would be too many of this user's that have not begun */
export async function limitWaiting({ sql, viewer, maxWaiting }: Context, added: number): Promise<void> {
  const count = async (): Promise<number> => {
    const [row] = await sql<{ waiting: number }[]>`
      select count(*) as waiting
      from (
        select from tasks
        where user_id = ${viewer.id} and status in ('initial', 'ready', 'waiting')
        limit ${maxWaiting + 1}
      ) pending
    `;
    return (row?.waiting ?? 0) + added;
  };
  if ((await count()) + closeness <= maxWaiting) return;
  // Close to the limit, orders of one user are counted one after the other: together they must not pass it.
  await sql`select pg_advisory_xact_lock(7264302, ${viewer.id})`;
  if ((await count()) <= maxWaiting) return;
  throw new Problem("too-many-waiting", {
    detail: `At most ${maxWaiting} of your tasks may wait at the same time`,
    headers: { "Retry-After": "60" },
  });
}

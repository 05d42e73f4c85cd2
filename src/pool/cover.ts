/** The cover of a new model: a picture made with it, ordered in its owner's name when the training has ended. */
import type { Sql } from "../db/client.ts";
import { addJob } from "../db/queue.ts";
import type { ModelRow } from "./inputs.ts";

/** Behind all that anybody waits for. */
const priority = -10;
const maxEdge = 512;

/**
 * Orders a cover for a model that has none, in the transaction that stores its file. Nothing is ordered where no server
 * for inference could make it. The picture itself belongs to no model: it is not counted as a use.
 */
export async function orderCover(tx: Sql, model: ModelRow): Promise<void> {
  if (model.image !== null) return;
  const edge = Math.min(model.train.resolution, maxEdge);
  const picture = {
    prompt: model.trigger_words || model.name,
    width: edge,
    height: edge,
    num_inference_steps: 20,
    guidance_scale: 7,
    scheduler: "K_EULER",
    seed: model.train.seed,
    base_model: model.base_model,
  };
  const [task] = await tx<{ id: number; need_id: number }[]>`
    insert into tasks (name, type, base_model, priority, params, is_cover, public, user_id, model_id)
    select left('Cover of ' || m.name, 120), 'infer', m.base_model, ${priority},
      ${tx.json({ ...picture, model_id: model.id, count: 1 })}, true, m.public, m.user_id, m.id
    from models m
    where m.id = ${model.id}
      and exists (select from servers where type = 'infer')
    returning id, need_id
  `;
  if (!task) return;
  const [look] = await tx<{ obstacles: string[] }[]>`select find_obstacles(${task.need_id}) as obstacles`;
  if (look && look.obstacles.length > 0) {
    await tx`delete from tasks where id = ${task.id}`;
    return;
  }
  await tx`
    insert into images (name, prompt, width, height, num_inference_steps, guidance_scale, scheduler, seed, base_model,
      public, user_id, task_id)
    select t.name, ${picture.prompt}, ${edge}, ${edge}, ${picture.num_inference_steps}, ${picture.guidance_scale},
      ${picture.scheduler}, ${picture.seed}, t.base_model, t.public, t.user_id, t.id
    from tasks t
    where t.id = ${task.id}
  `;
  await addJob(tx, "prepare-task", { task_id: task.id });
}

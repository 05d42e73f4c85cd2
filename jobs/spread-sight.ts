/**
 * `spread-sight`: moves the versions of what refers to a row that came into sight or went out of it, where these are many
 * (sql/0110_shown_references.sql). May run twice.
 */
import { z } from "zod";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({
  referring: z.enum(["images", "models", "tasks"]),
  reference: z.enum(["model_id", "dataset_id"]),
  id: z.int(),
});

/** As many rows as are announced one by one. */
const batch = 200;

export function createSpreadSight({ sql, stopping }: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    const { referring, reference, id } = payloadSchema.parse(payload);
    for (let after = 0; ; ) {
      stopping.throwIfAborted();
      const moved = await sql<{ id: number }[]>`
        update ${sql(referring)} set version = version
        where id in (
          select id from ${sql(referring)} where ${sql(reference)} = ${id} and id > ${after} order by id limit ${batch}
        )
        returning id
      `;
      if (moved.length === 0) return;
      after = Math.max(...moved.map((row) => row.id));
    }
  };
}

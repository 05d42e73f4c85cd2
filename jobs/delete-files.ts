/** `delete-files`: removes files whose last reference has gone. May run twice. */
import { z } from "zod";
import { deleteUnused } from "../src/storage/records.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ keys: z.array(z.string()) });

export function createDeleteFiles({ sql, storage }: JobDeps) {
  return async (payload: unknown): Promise<void> => {
    await deleteUnused(sql, storage, payloadSchema.parse(payload).keys);
  };
}

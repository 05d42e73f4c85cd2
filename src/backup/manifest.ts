/** `backup.json`: what a backup holds. Written last; a directory without it is none. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { BootError } from "../boot.ts";

export const manifestSchema = z.strictObject({
  format: z.literal(1),
  created_at: z.iso.datetime(),
  /** The files of sql/ that the database had, in order. */
  migrations: z.array(z.strictObject({ name: z.string(), checksum: z.string() })),
  tables: z.array(
    z.strictObject({ schema: z.string(), name: z.string(), columns: z.array(z.string()), rows: z.int() }),
  ),
  sequences: z.array(z.strictObject({ name: z.string(), last: z.string().nullable() })),
  files: z.strictObject({ count: z.int(), bytes: z.int() }),
  /** Whether the key lies in it, or was set by SECRET_KEY and is the operator's to keep. */
  has_key: z.boolean(),
});

export type Manifest = z.infer<typeof manifestSchema>;

export const paths = {
  manifest: "backup.json",
  key: "secret-key",
  files: "files",
  table: (table: { schema: string; name: string }) => join("database", `${table.schema}.${table.name}.copy.gz`),
};

/** @throws BootError */
export async function readManifest(directory: string): Promise<Manifest> {
  const text = await readFile(join(directory, paths.manifest), "utf8").catch(() => {
    throw new BootError(`${directory} is no whole backup: it has no ${paths.manifest}`);
  });
  const parsed = manifestSchema.safeParse(JSON.parse(text));
  if (!parsed.success)
    throw new BootError(`${directory} was written by another release: ${paths.manifest} is not as here`);
  return parsed.data;
}

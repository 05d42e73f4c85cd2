/** Lengths of texts as people, PostgreSQL and JSON Schema count them: by characters, not by UTF-16 units. */
import type { z } from "zod";

/** zod's own `max` would count 𠮷 and 🎨 twice, and refuse what the document and the table allow. */
export function limitText<S extends z.ZodString>(schema: S, max: number): S {
  const fits = (text: string) => text.length <= max || [...text].length <= max;
  return schema
    .refine(fits, { error: `Too big: expected string to have <=${max} characters` })
    .meta({ maxLength: max });
}

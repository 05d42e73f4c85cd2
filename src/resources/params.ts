/** The parameter catalogue as a resource: what fields there are, their limits, defaults and choices with labels. */
import { z } from "zod";
import { builtin, type EntryName } from "../params/builtin.ts";
import { applyOverrides, checkOverrides, type Overrides, overrideSchema } from "../params/catalogue.ts";
import { defineResource } from "../rest/define.ts";

export const params = defineResource({
  name: "params",
  singular: "parameter set",
  about:
    "The parameter catalogue: every field's type, limits, default and choices with their labels. Admins change defaults and narrow limits within the built-in ones, which this document shows.",
  id: "text",
  owner: "null::int",
  fields: {
    name: { schema: z.string(), select: ({ sql }) => sql`t.id` },
    value: {
      schema: z.record(z.string(), z.unknown()),
      select: ({ sql }) => sql`t.overrides`,
      shape: (overrides, row) => applyOverrides(builtin[row.id as EntryName], overrides as Overrides),
    },
  },
  filters: { id: { kind: "text", column: "id" }, name: { kind: "text", column: "id" } },
  sorts: { name: { by: 'id collate "C"', direction: "asc" } },
  visible: ({ sql }) => sql`t.id = any (${Object.keys(builtin)}::text[])`,
  mayWrite: (viewer) => viewer.admin,
  patch: {
    shape: () => ({ value: overrideSchema }),
    async change({ sql }, input, [row]) {
      if (input.value === undefined) return {};
      const [kept] = await sql<
        { overrides: Overrides }[]
      >`select overrides from params where id = ${row?.id as string}`;
      const merged: Overrides = { ...kept?.overrides };
      // A merge patch two levels deep: null takes a change back.
      for (const [field, given] of Object.entries(input.value as Overrides)) {
        const next = { ...merged[field], ...given };
        merged[field] = Object.fromEntries(Object.entries(next).filter(([, value]) => value != null));
      }
      checkOverrides(row?.id as EntryName, merged);
      return { overrides: sql.json(merged as never) };
    },
  },
});

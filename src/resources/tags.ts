/** Tags: names that objects share. Anyone logged in makes them; admins rename and delete them, everywhere at once. */
import { defineResource } from "../rest/define.ts";
import { commonSorts, createdAt, id, shownName, tagName, updatedAt } from "./common.ts";

export const tags = defineResource({
  name: "tags",
  singular: "tag",
  about: "Names that objects share. Anyone logged in makes them; admins rename and delete them, everywhere at once.",
  id: "integer",
  owner: "null::int",
  fields: { id, name: shownName, created_at: createdAt, updated_at: updatedAt },
  filters: { id: { kind: "id", column: "id" }, name: { kind: "text", column: "name" } },
  sorts: commonSorts,
  visible: ({ sql }) => sql`true`,
  mayWrite: (viewer) => viewer.admin,
  create: {
    by: "users",
    shape: () => ({ name: tagName }),
    required: ["name"],
    throws: ["name-taken"],
    async insert({ sql }, input) {
      const [row] = await sql<{ id: number }[]>`insert into tags (name) values (${input.name as string}) returning id`;
      return { id: row?.id as number };
    },
  },
  patch: { shape: () => ({ name: tagName }), throws: ["name-taken"], change: async (_context, input) => input },
  remove: {},
});

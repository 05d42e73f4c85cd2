/** Tags: names that objects share. Anyone logged in makes them; admins rename and delete them, everywhere at once. */
import { defineResource } from "../rest/define.ts";
import { commonSorts, createdAt, id, insertAll, shownName, tagName, updatedAt } from "./common.ts";

export const tags = defineResource({
  name: "tags",
  singular: "tag",
  about: "Names that objects share. Anyone logged in makes them; admins rename and delete them, everywhere at once.",
  id: "integer",
  owner: "null::int",
  isBulk: true,
  fields: { id, name: shownName, created_at: createdAt, updated_at: updatedAt },
  filters: { id: { kind: "id", column: "id" }, name: { kind: "text", column: "name" } },
  sorts: commonSorts,
  lists: { counted: [], isOwned: false },
  isSearchable: true,
  visible: ({ sql }) => sql`true`,
  mayWrite: (viewer) => viewer.admin,
  create: {
    by: "users",
    shape: () => ({ name: tagName }),
    required: ["name"],
    throws: ["name-taken"],
    insert: ({ sql }, inputs) => insertAll(sql, "tags", inputs),
  },
  patch: { shape: () => ({ name: tagName }), throws: ["name-taken"], change: async (_context, input) => input },
  remove: {},
});

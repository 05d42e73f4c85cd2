/** The one LISTEN connection of a process: which rows have changed, as the database announces it at commit. */
import type { Sql } from "../db/client.ts";

export interface Change {
  table: string;
  operation: "insert" | "update" | "delete" | "resync";
  /** Empty for `resync`: any row of the table may have changed. */
  ids: string[];
}

/**
 * @param onChange in commit order
 * @param onGap after the connection was lost and regained: anything may have been missed
 * @returns stops listening
 */
export async function listen(
  sql: Sql,
  onChange: (change: Change) => void,
  onGap: () => void,
): Promise<() => Promise<void>> {
  let isFirst = true;
  const subscription = await sql.listen(
    "atelier",
    (payload) => {
      const [table = "", operation = "", ids = ""] = payload.split(" ");
      onChange({ table, operation: operation as Change["operation"], ids: ids === "*" ? [] : ids.split(",") });
    },
    () => {
      if (!isFirst) onGap();
      isFirst = false;
    },
  );
  return () => subscription.unlisten();
}

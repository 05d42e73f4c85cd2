/** The search entries in the database: how rows get theirs, and how a query finds them. */
import type { Fragment } from "postgres";
import type { Sql } from "../db/client.ts";
import { fold, foldVersion, gramsOf, toWordQuery, wordsOf } from "./fold.ts";

/** The searched columns of each resource, as sql/0015_search.sql watches them. */
export const searchedColumns: Record<string, string[]> = {
  users: ["name"],
  tags: ["name"],
  datasets: ["name", "info"],
  models: ["name", "trigger_words", "autov2"],
  images: ["name", "prompt"],
  tasks: ["name"],
};

/** One index serves all resources: the prefix keeps them apart. */
const prefixed = (resource: string, gram: string) => `${resource}:${gram}`;

interface Entry {
  resource: string;
  row_id: number;
}

/** Folds the rows whose texts this transaction has written: what a caller has just made can be found. */
export async function foldWritten(tx: Sql): Promise<void> {
  await foldEntries(
    tx,
    await tx<Entry[]>`
    select resource, row_id from search_entries where text is null and xmin = pg_current_xact_id()::xid
  `,
  );
}

/**
 * Folds rows that others have written, psql included, some at a time. Rows that somebody else is folding are passed
 * over. To be called inside a transaction.
 * @returns how many were folded
 */
export async function foldWaiting(tx: Sql, limit = 1000): Promise<number> {
  const waiting = await tx<Entry[]>`
    select resource, row_id from search_entries where text is null limit ${limit} for update skip locked
  `;
  await foldEntries(tx, waiting);
  return waiting.length;
}

/** What is kept of a row's searched texts. */
export function searchEntry(resource: string, texts: unknown[]): { text: string; grams: string[] } {
  const text = fold(texts.join("\n"));
  return { text, grams: [...gramsOf(text)].map((gram) => prefixed(resource, gram)) };
}

async function foldEntries(sql: Sql, waiting: Entry[]): Promise<void> {
  for (const [resource, columns] of Object.entries(searchedColumns)) {
    const ids = waiting.filter((entry) => entry.resource === resource).map((entry) => entry.row_id);
    if (ids.length === 0) continue;
    const rows = await sql<Record<string, unknown>[]>`
      select id, ${sql(columns)} from ${sql(resource)} where id = any (${ids}::int[])
    `;
    const entries = rows.map((row) => ({
      id: row.id,
      ...searchEntry(
        resource,
        columns.map((column) => row[column]),
      ),
    }));
    await sql`
      update search_entries e
      set text = given.text, grams = array(select jsonb_array_elements_text(given.grams))
      from jsonb_to_recordset(${sql.json(entries as never)}) as given (id int, text text, grams jsonb)
      where e.resource = ${resource}
        and e.row_id = given.id
    `;
  }
}

/** Whether the entries were made by an older fold, which would miss what this one looks for. */
export async function isOutdated(sql: Sql): Promise<boolean> {
  const [kept] = await sql<{ value: string }[]>`
    insert into settings (name, value) values ('search-fold', ${String(foldVersion)})
    on conflict (name) do update set value = settings.value
    returning value
  `;
  return kept?.value !== String(foldVersion);
}

/** Makes every entry anew. Search finds the old ones until each is replaced. */
export async function reindex(sql: Sql, onProgress: (done: number) => void): Promise<void> {
  let done = 0;
  for (const resource of Object.keys(searchedColumns)) {
    for (let after = 0; ; ) {
      const ids = await sql<{ id: number }[]>`
        select id from ${sql(resource)} where id > ${after} order by id limit 1000
      `;
      const last = ids.at(-1)?.id;
      if (last === undefined) break;
      after = last;
      await sql.begin(async (tx) => {
        await tx`
          insert into search_entries (resource, row_id)
          select ${resource}, unnest(${ids.map((row) => row.id)}::int[])
          on conflict (resource, row_id) do update set text = null, grams = null
        `;
        await foldWritten(tx as unknown as Sql);
      });
      done += ids.length;
      onProgress(done);
    }
  }
  await sql`
    insert into settings (name, value) values ('search-fold', ${String(foldVersion)})
    on conflict (name) do update set value = excluded.value
  `;
}

/**
 * What a search finds, as a condition over the alias `e` of search_entries. Every set (a repeated parameter) must match;
 * in a set one of the alternatives (between commas) must; in an alternative every word.
 */
export function matchEntries(sql: Sql, resource: string, sets: string[][]): Fragment {
  const toWord = ({ grams, part }: ReturnType<typeof toWordQuery>): Fragment => {
    const found = sql`e.grams @> ${grams.map((gram) => prefixed(resource, gram))}::text[]`;
    return part === null ? found : sql`${found} and e.text like ${`%${part.replace(/[\\%_]/g, "\\$&")}%`}`;
  };
  const join = (parts: Fragment[], word: Fragment) => parts.reduce((all, part) => sql`${all} ${word} ${part}`);
  const condition = sets.map((alternatives) => {
    const each = alternatives.map((text) => {
      const words = wordsOf(fold(text)).map(toWordQuery);
      return words.length === 0 ? sql`true` : sql`(${join(words.map(toWord), sql`and`)})`;
    });
    return sql`(${join(each, sql`or`)})`;
  });
  return sql`e.resource = ${resource} and ${join(condition, sql`and`)}`;
}

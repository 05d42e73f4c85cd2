/** The tables of a backup, and their rows in and out by COPY. */
import type { Readable, Writable } from "node:stream";
import type { Sql } from "../db/client.ts";

export interface Table {
  schema: string;
  name: string;
  /** Those that are stored; generated ones follow from them. */
  columns: string[];
}

/** Ours, and the queue's: a backup keeps what was ordered and not done yet. */
const schemas = ["public", "graphile_worker"];

export async function listTables(sql: Sql): Promise<Table[]> {
  return sql<Table[]>`
    select n.nspname as schema, c.relname as name, array_agg(a.attname::text order by a.attnum) as columns
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    where c.relkind = 'r'
      and n.nspname = any (${schemas})
    group by 1, 2
    order by 1, 2
  `;
}

export interface Sequence {
  name: string;
  /** Null: never used. */
  last: string | null;
}

export async function listSequences(sql: Sql): Promise<Sequence[]> {
  return sql<Sequence[]>`
    select quote_ident(schemaname) || '.' || quote_ident(sequencename) as name, last_value::text as last
    from pg_sequences
    where schemaname = any (${schemas})
    order by 1
  `;
}

export function copyOut(sql: Sql, table: Table): Promise<Readable> {
  return sql.unsafe(`copy ${target(table)} to stdout`).readable();
}

export function copyIn(sql: Sql, table: Table): Promise<Writable> {
  return sql.unsafe(`copy ${target(table)} from stdin`).writable();
}

export function nameOf({ schema, name }: Pick<Table, "schema" | "name">): string {
  return `${quote(schema)}.${quote(name)}`;
}

function target(table: Table): string {
  return `${nameOf(table)} (${table.columns.map(quote).join(", ")})`;
}

function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

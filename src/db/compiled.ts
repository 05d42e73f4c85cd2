/**
 * Statements put together once. A statement of ours is composed of some thirty fragments, and composing it takes longer
 * than everything else about reading a row; but for one resource and one kind of viewer only the values differ.
 */
import type { Fragment } from "postgres";
import type { Sql } from "./client.ts";

/** Stands for a value while a statement is composed. */
class Slot {
  constructor(readonly name: string) {}
}

export interface Compiled {
  strings: string[] & { raw: string[] };
  args: unknown[];
}

/** The properties of postgres.js's own query and identifier that composing reads too. */
interface Part {
  strings?: string[];
  args?: unknown[];
  value?: unknown;
}

/** @param build composes the statement; what `slot` returns takes the place of values that come later */
export function compile(build: (slot: <T>(name: string) => T) => Fragment): Compiled {
  const strings = [""] as unknown as Compiled["strings"];
  const args: unknown[] = [];
  const append = (text: string) => {
    strings[strings.length - 1] += text;
  };
  const flatten = ({ strings: texts = [], args: parts = [] }: Part) => {
    append(texts[0] ?? "");
    for (const [index, part] of parts.entries()) {
      const known = part as Part | null;
      if (known && Array.isArray(known.strings)) flatten(known);
      else if (known?.constructor?.name === "Identifier") append(String(known.value));
      else {
        args.push(part);
        strings.push("");
      }
      append(texts[index + 1] ?? "");
    }
  };
  flatten(build((name) => new Slot(name) as never) as unknown as Part);
  strings.raw = strings;
  return { strings, args };
}

/** The statement as a fragment with this request's values, to be run or to be part of another. */
export function fill(sql: Sql, { strings, args }: Compiled, values: Record<string, unknown>): Fragment {
  const filled = args.map((arg) => (arg instanceof Slot ? values[arg.name] : arg));
  return sql(strings as unknown as TemplateStringsArray, ...(filled as never[]));
}

/** Runs a statement whose plan is not kept: it is planned for its own values, which takes a message more. */
export function runOnce<T extends readonly object[]>(sql: Sql, statement: Fragment): Promise<T> {
  const { strings, args } = compile(() => statement);
  const text = strings.reduce((all, part, i) => `${all}$${i}${part}`);
  return sql.unsafe(text, args as never[]) as unknown as Promise<T>;
}

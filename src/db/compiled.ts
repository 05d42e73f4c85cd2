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
  /** The same to be run by itself: with `$1`, `$2` … for `parameters`, one for each slot. */
  text: string;
  parameters: unknown[];
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
  return { strings, args, ...number(strings, args) };
}

function number([first = "", ...rest]: string[], args: unknown[]): Pick<Compiled, "text" | "parameters"> {
  const parameters: unknown[] = [];
  const places = new Map<string, number>();
  const texts = rest.map((next, i) => {
    const arg = args[i];
    if (!(arg instanceof Slot)) return `$${parameters.push(arg)}${next}`;
    // A parameter has one type: where a slot is cast, it is another.
    const key = `${arg.name}${/^::[\w[\]]+/.exec(next)?.[0] ?? ""}`;
    const place = places.get(key) ?? parameters.push(arg);
    places.set(key, place);
    return `$${place}${next}`;
  });
  return { text: first + texts.join(""), parameters };
}

const withValues = (args: unknown[], values: Record<string, unknown>) =>
  args.map((arg) => (arg instanceof Slot ? values[arg.name] : arg)) as never[];

/** The statement as a part of another, with this request's values. */
export function fill(sql: Sql, { strings, args }: Compiled, values: Record<string, unknown>): Fragment {
  return sql(strings as unknown as TemplateStringsArray, ...withValues(args, values));
}

/** Runs the statement with this request's values; its plan is kept. */
export function run<T extends readonly object[]>(
  sql: Sql,
  { text, parameters }: Compiled,
  values: Record<string, unknown>,
): Promise<T> {
  const options = { prepare: true, simple: false };
  return sql.unsafe(text, withValues(parameters, values), options) as unknown as Promise<T>;
}

/** Runs a statement whose plan is not kept: it is planned for its own values, which takes a message more. */
export function runOnce<T extends readonly object[]>(sql: Sql, statement: Fragment): Promise<T> {
  const { text, parameters } = compile(() => statement);
  return sql.unsafe(text, parameters as never[]) as unknown as Promise<T>;
}

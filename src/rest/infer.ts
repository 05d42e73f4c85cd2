/** Types read from a definition: what its callers get and give. Types only, so that the client can import them. */
import type { z } from "zod";
import type { Field, Filter, Resource, Shape } from "./define.ts";

type Fields = Readonly<Record<string, Field>>;
type Restricted = { see: "owner" | "admin" };
/** Fields that some viewers get an object without. */
type Hidden<F extends Fields> = {
  [K in keyof F]: F[K] extends Restricted ? K : never;
}[keyof F];
type Value<F extends Field> = z.output<F["schema"]>;
type Simplify<T> = { [K in keyof T]: T[K] } & {};

/** An object as it is answered; what not every viewer gets is optional. */
export type ObjectOf<D extends { fields: Fields }> = Simplify<
  { -readonly [K in Exclude<keyof D["fields"], Hidden<D["fields"]>>]: Value<D["fields"][K]> } & {
    -readonly [K in Hidden<D["fields"]>]?: Value<D["fields"][K]>;
  }
>;

type InputOf<S extends Shape> = { -readonly [K in keyof ReturnType<S>]?: z.input<ReturnType<S>[K]> };

/** The body of a POST; never where nobody may create. */
export type CreateInput<D> = D extends { create: { shape: infer S extends Shape; required: readonly (infer R)[] } }
  ? Simplify<Omit<InputOf<S>, R & string> & Required<Pick<InputOf<S>, R & keyof InputOf<S>>>>
  : never;

/** The body of a PATCH; never where nobody may change anything. */
export type PatchInput<D> = D extends { patch: { shape: infer S extends Shape } } ? Simplify<InputOf<S>> : never;

type FilterValue<F, D> = F extends { kind: "id" }
  ? number
  : F extends { kind: "boolean" }
    ? boolean
    : F extends { kind: "enum" }
      ? EnumValue<F, D>
      : string;
/** An enum filters by the values of the field of its name. */
type EnumValue<F, D> = F extends { field: infer N }
  ? N extends keyof ObjectValues<D>
    ? ObjectValues<D>[N]
    : string
  : string;
type ObjectValues<D> = D extends { fields: infer F extends Fields }
  ? { [K in keyof F]: z.output<F[K]["schema"]> }
  : never;

/** One value; several are a union; nested lists are an intersection of unions. */
export type Condition<V> = V | readonly V[] | readonly (readonly V[])[];

export type FiltersOf<D extends { filters: Readonly<Record<string, Filter>> }> = {
  -readonly [K in keyof D["filters"]]?: Condition<FilterValue<D["filters"][K], D>>;
} & (D extends { isSearchable: true } ? { search?: Condition<string> } : unknown);

export type SortOf<D extends { sorts: Resource["sorts"] }> = keyof D["sorts"] & string;

/** What a POST answers: the object, and what is shown only this once. */
export type CreatedOf<D extends { fields: Fields }> = D extends {
  create: { extra: infer X extends Readonly<Record<string, z.ZodType>> };
}
  ? Simplify<ObjectOf<D> & { -readonly [K in keyof X]: z.output<X[K]> }>
  : ObjectOf<D>;

export type IdOf<D extends { id: Resource["id"] }> = D["id"] extends "text" ? string : number;

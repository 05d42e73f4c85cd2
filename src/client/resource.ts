/** One resource's methods, typed by its definition. */
import type { Resource } from "../rest/define.ts";
import type { CreatedOf, CreateInput, FiltersOf, IdOf, ObjectOf, PatchInput, SortOf } from "../rest/infer.ts";
import { send, type Transport } from "./http.ts";
import { type Condition, toQuery } from "./query.ts";
import { type SocketClass, type Watched, type WatchOptions, watch } from "./watch.ts";
import { type ListChange, watchList } from "./watch-list.ts";

export interface Page<T> {
  page: number;
  page_size: number;
  /** All that meet the conditions and that the caller may see. */
  total: number;
  next: boolean;
  list: T[];
}

export interface Options {
  signal?: AbortSignal;
}
export interface WriteOptions extends Options {
  /** An ETag (`etagOf`): the write is refused (412) when somebody else has written since. */
  ifMatch?: string | null;
}

type Definition = Pick<Resource, "fields" | "filters" | "sorts" | "id">;

export type ListOptions<D extends Definition> = FiltersOf<D> & {
  page?: number;
  pageSize?: number;
  sort?: SortOf<D>;
  order?: "asc" | "desc";
};

interface Reads<D extends Definition> {
  list(conditions?: ListOptions<D>, options?: Options): Promise<Page<ObjectOf<D>>>;
  /** Every row that meets the conditions, page by page. */
  iterate(conditions?: ListOptions<D>, options?: Options): AsyncGenerator<ObjectOf<D>, void, void>;
  get(id: IdOf<D>, options?: Options): Promise<ObjectOf<D>>;
  /** The whole object, now and after every change; ends when it is deleted. */
  watch(id: IdOf<D>, options?: WatchOptions): AsyncGenerator<Watched<ObjectOf<D>>, void, void>;
  /** The page, then whatever comes to meet the conditions, changes, or ceases to meet them, on the page or not. */
  watchList(conditions?: ListOptions<D>, options?: WatchOptions): AsyncGenerator<ListChange<ObjectOf<D>>, void, void>;
}
interface Creates<D extends Definition> {
  /** Survives a network that fails: it is sent again under the same Idempotency-Key. */
  create(input: CreateInput<D>, options?: Options): Promise<CreatedOf<D>>;
}
interface Patches<D extends Definition> {
  patch(id: IdOf<D>, changes: PatchInput<D>, options?: WriteOptions): Promise<ObjectOf<D>>;
}
interface Deletes<D extends Definition> {
  delete(id: IdOf<D>, options?: WriteOptions): Promise<void>;
}

export type ResourceClient<D extends Definition> = Reads<D> &
  (D extends { create: object } ? Creates<D> : unknown) &
  (D extends { patch: object } ? Patches<D> : unknown) &
  (D extends { remove: object } ? Deletes<D> : unknown);

/** The methods are the same for all; which of them a resource has is the types' business. */
export function createResource<D extends Definition>(
  name: string,
  transport: Transport,
  socketClass: SocketClass | undefined,
): ResourceClient<D> {
  const base = `/api/${name}`;
  const pathOf = (id: number | string) => `${base}/${encodeURIComponent(id)}`;
  type Conditions = Record<string, Condition | undefined>;
  const list = (conditions: Conditions = {}, options?: Options) =>
    send<Page<ObjectOf<D>>>(transport, "GET", `${base}${toQuery(conditions)}`, options);
  const methods = {
    list,
    async *iterate({ page = 1, ...conditions }: { page?: number; pageSize?: number } = {}, options?: Options) {
      for (let next = true; next; page += 1) {
        const answer = await list({ pageSize: 200, ...conditions, page }, options);
        yield* answer.list;
        next = answer.next;
      }
    },
    get: (id: number | string, options?: Options) => send(transport, "GET", pathOf(id), options),
    watch: (id: number | string, options?: WatchOptions) => watch(transport, socketClass, pathOf(id), options),
    watchList: (conditions: Conditions = {}, options?: WatchOptions) =>
      watchList(transport, socketClass, `${base}${toQuery(conditions)}`, options),
    create: (body: unknown, options?: Options) =>
      send(transport, "POST", base, { ...options, body, isCreate: name !== "sessions" }),
    patch: (id: number | string, body: unknown, { ifMatch, ...options }: WriteOptions = {}) =>
      send(transport, "PATCH", pathOf(id), { ...options, body, headers: condition(ifMatch) }),
    delete: (id: number | string, { ifMatch, ...options }: WriteOptions = {}) =>
      send(transport, "DELETE", pathOf(id), { ...options, headers: condition(ifMatch) }),
  };
  return methods as unknown as ResourceClient<D>;
}

function condition(ifMatch: string | null | undefined): Record<string, string> {
  return ifMatch == null ? {} : { "If-Match": ifMatch };
}

/** `page` and `pageSize` of lists that are no resource's. */
import { type Fault, Problem } from "../problems.ts";
import { defaultPageSize, maxPage, maxPageSize } from "./limits.ts";

export interface Paging {
  page: number;
  pageSize: number;
  offset: number;
}

/** @throws Problem "invalid-query" naming every fault; nothing else is accepted */
export function parsePaging(query: URLSearchParams): Paging {
  const errors: Fault[] = [...new Set(query.keys())]
    .filter((name) => name !== "page" && name !== "pageSize")
    .map((parameter) => ({ parameter, detail: "is unknown; there are: page, pageSize" }));
  const number = (name: string, fallback: number, maximum: number) => {
    const text = query.get(name) ?? String(fallback);
    const value = /^\d{1,15}$/.test(text) ? Number(text) : 0;
    if (value < 1 || value > maximum || query.getAll(name).length > 1) {
      errors.push({ parameter: name, detail: `must be one whole number from 1 to ${maximum}` });
    }
    return value;
  };
  const page = number("page", 1, maxPage);
  const pageSize = number("pageSize", defaultPageSize, maxPageSize);
  if (errors.length > 0) throw new Problem("invalid-query", { detail: "The query has faults", errors });
  return { page, pageSize, offset: (page - 1) * pageSize };
}

/** A ListView of rows that were read by `paging`. */
export function toPage<T>({ page, pageSize, offset }: Paging, total: number, list: T[]) {
  return { page, page_size: pageSize, total, next: offset + pageSize < total, list };
}

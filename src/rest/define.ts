/** What a resource is: data that the generic handlers, the socket and the OpenAPI document consume. */
import type { Fragment } from "postgres";
import type { z } from "zod";
import type { Secrets } from "../auth/secrets.ts";
import type { Viewer } from "../auth/viewer.ts";
import type { Sql } from "../db/client.ts";
import type { EntryName } from "../params/builtin.ts";
import type { Catalogue } from "../params/catalogue.ts";
import type { Outlook } from "../pool/outlook.ts";
import type { Fault, ProblemCode } from "../problems.ts";
import type { WebhookGuard } from "../webhooks/guard.ts";
import type { Links } from "./links.ts";

/** What rules and hooks get. Inside a write, `sql` is the transaction. */
export interface Context {
  sql: Sql;
  viewer: Viewer;
  catalogue: Catalogue;
  links: Links;
  secrets: Secrets;
  /** Who the request comes from; empty strings for a socket's own reads. */
  client: { ip: string; userAgent: string; origin: string };
  isSignupOpen: boolean;
  webhooks: Pick<WebhookGuard, "judge">;
  outlook: Outlook;
  /** Tasks of one user that have not begun, at most. */
  maxWaiting: number;
  /** What an engine has loaded or could load, asked live with a short cache; empty when it does not answer in time. */
  listModels: (sql: Sql, serverId: number) => Promise<{ type: string; name: string }[]>;
}

/** A row as it comes from the database: the selected fields beside what the rules need. */
export type Row = Record<string, unknown> & {
  id: number | string;
  version: number;
  revision: number;
  /** Whose it is, whatever column says so; null where nobody owns it. */
  owner_id: number | null;
};

export interface Field {
  /** What is answered: for the OpenAPI document and the client's types. */
  schema: z.ZodType;
  /** Who sees it. `owner` means the owner and admins; the others get the object without it. */
  see?: "everyone" | "owner" | "admin";
  /** SQL for the value, over the alias `t`; the column of the same name when left out. */
  select?: (context: Context) => Fragment;
  /** Shapes the value that was selected; the row may hold what `prepare` added. */
  shape?: (value: unknown, row: Row, context: Context) => unknown;
  /**
   * Changes without a new version: kept out of ETags. Without a value it stands still, since it gets one by a change of
   * the row; else a function tells of an object as it is shown whether it may move.
   */
  live?: true | ((object: Record<string, unknown>) => boolean);
}

export type Filter =
  | { kind: "id"; column: string; see?: "owner" | "admin"; visible?: (context: Context) => Fragment }
  | { kind: "text"; column: string; see?: "owner" | "admin" }
  | { kind: "boolean"; column: string; see?: "owner" | "admin" }
  | ({ kind: "enum"; column: string; field: string; see?: "owner" | "admin" } & Choices)
  | { kind: "tag"; column: string; see?: "owner" | "admin" }
  | { kind: "search"; see?: "owner" | "admin" };

/** The catalogue's, with their labels, or a field's own. */
type Choices = { entry: EntryName; values?: undefined } | { entry?: undefined; values: readonly string[] };

export interface Sort {
  /** Over the alias `t`; written here, never a caller's text. */
  by: string;
  direction: "asc" | "desc";
  /** Where not everyone sees the field: an order tells of it. */
  see?: "admin";
}

export type Input = Record<string, unknown>;

/** Validators of what callers may write, made from the catalogue in force. */
export type Shape = (catalogue: Catalogue) => Record<string, z.ZodType>;

/**
 * Checks that need the database, most of all references. Runs on whatever fields were valid by themselves, so that all
 * faults of a body are named at once, and may replace values by what the hooks want (a URL by its canonical form).
 */
export type Check = (context: Context, input: Input, faults: Fault[]) => Promise<void>;

/**
 * What a write's hooks and the table's constraints may throw beside the generic problems: the document says it, since
 * code that throws cannot be asked.
 */
interface Throws {
  throws?: readonly ProblemCode[];
}

export interface Resource {
  /** Table, path segment and socket topic. */
  name: string;
  /** For sentences: "a dataset". */
  singular: string;
  /** What it is and who sees it, in a sentence or two for readers of the OpenAPI document. */
  about: string;
  id: "integer" | "text";
  fields: Record<string, Field>;
  filters: Record<string, Filter>;
  sorts: Record<string, Sort>;
  /** SQL for whose a row is, over `t`. */
  owner: string;
  /**
   * How long lists stay fast (sql/0013_lists.sql): the columns that are counted by value, the table of tag postings
   * with the columns that it repeats, and whether rows are public or private. Absent for small tables, which are counted
   * and sorted.
   */
  lists?: { counted: string[]; tags?: { postings: string; columns: string[] }; isOwned: boolean };
  /** Searched by keywords, see src/search. */
  isSearchable?: boolean;
  /** Only these viewers may list and read at all; others get 401 (guests) or 403. */
  readers?: "everyone" | "users";
  /** Which rows the viewer may see, over the alias `t`: the same text serves list, total, detail, write and socket. */
  visible: (context: Context) => Fragment;
  mayWrite: (viewer: Viewer, row: Row) => boolean;
  /**
   * SQL over `t` for an array of the users, beside the owner and admins, who may be shown more of a row than strangers
   * are: what they own and the row refers to. Nobody when left out. Sockets show a row once to each kind of viewer.
   */
  insiders?: (context: Context) => Fragment;
  /** Each session is shown something else, so that no two sockets can be told the same. */
  isPersonal?: boolean;
  /** Loads what the shapes need for a whole page at once. */
  prepare?: (context: Context, rows: Row[]) => Promise<void>;
  /** Fills in live fields that are worked out for a whole page at once; `concerns` is asked first, of an object's text. */
  enliven?: {
    concerns: (json: string) => boolean;
    fill: (context: Context, objects: Record<string, unknown>[]) => Promise<void>;
  };
  /** Whether arrays may be posted, and PATCH and DELETE take `?id=1,2,3`: one transaction, all or nothing. */
  isBulk?: boolean;
  create?: Throws & {
    by: "guests" | "users" | "admins";
    /** Who may, beyond `by`. @throws Problem "forbidden" */
    judge?: (context: Context) => void;
    shape: Shape;
    required: readonly string[];
    /** Exactly one of these must be there, beside `required`: for the document; `check` judges it. */
    needsOneOf?: readonly string[];
    /** Bodies that would do, by what they are for; fields by their schemas' examples when left out. */
    examples?: Readonly<Record<string, Input>>;
    adminFields?: readonly string[];
    check?: Check;
    /** Slow work outside the transaction: hashing. */
    before?: (context: Context, input: Input) => Promise<void>;
    /** What `insert` answers as `extra`. */
    extra?: Record<string, z.ZodType>;
    /** Runs around `before` and the transaction, and may refuse before them: throttling. */
    around?: Around;
    /** All objects of a bulk, in their order; only one where the resource takes no bulks. */
    insert: (context: Context, inputs: Input[]) => Promise<Made[]>;
    /** The answer shows what must be stored nowhere: no Idempotency-Key is accepted. */
    isSecret?: boolean;
  };
  patch?: Throws & {
    shape: Shape;
    adminFields?: readonly string[];
    /** Once for all rows of a bulk. */
    check?: (context: Context, input: Input, faults: Fault[], rows: Row[]) => Promise<void>;
    before?: (context: Context, input: Input) => Promise<void>;
    around?: Around;
    /**
     * The columns to set: one object for all rows, or one for each row in their order. Rows that share an object are
     * written by one statement; an empty object leaves its rows as they are.
     */
    change: (context: Context, input: Input, rows: Row[]) => Promise<Columns | Columns[]>;
  };
  remove?: Throws & {
    before?: (context: Context, rows: Row[]) => Promise<void>;
  };
}

export interface Made {
  id: number | string;
  /** Answered beside the object's fields, once. */
  extra?: Input;
  /** Who gets the answer, when the creation made it somebody else. */
  viewer?: Viewer;
}

export type Columns = Record<string, unknown>;

export type Around = <T>(context: Context, input: Input, work: () => Promise<T>) => Promise<T>;

/** Keeps the definition's own type, from which `infer.ts` reads what callers get and give. */
export function defineResource<const D extends Resource>(resource: D): D {
  return resource;
}

/** The rule for everything that has an owner: public rows for all, private ones for their owner and admins. */
export function ownedOrPublic({ sql, viewer }: Pick<Context, "sql" | "viewer">): Fragment {
  if (viewer.admin) return sql`true`;
  if (viewer.id === null) return sql`t.public`;
  return sql`(t.public or t.user_id = ${viewer.id})`;
}

export function isOwnerOrAdmin(viewer: Viewer, row: Pick<Row, "owner_id">): boolean {
  return viewer.admin || (viewer.id !== null && row.owner_id === viewer.id);
}

/** A column that refers to a row of `table`, null to those who may not see that row. Both use the owner's rule. */
export function visibleReference(column: string, table: string) {
  return (context: Context): Fragment => {
    const { sql, viewer } = context;
    if (viewer.admin) return sql`t.${sql(column)}`;
    return sql`(select r.id from ${sql(table)} r where r.id = t.${sql(column)} and ${
      viewer.id === null ? sql`r.public` : sql`(r.public or r.user_id = ${viewer.id})`
    })`;
  };
}

/** Pools of connections, and one clear line for each way in which a database cannot be reached. */
import postgres from "postgres";

/** A fault of the database's set-up, in one line for the operator. Entry points print it and exit 1. */
export class DatabaseError extends Error {
  override readonly name = "DatabaseError";
}

export type Sql = postgres.Sql<{ bigint: number }>;

export interface ConnectOptions {
  /** Connections at most. */
  max?: number;
  /** Shown in `pg_stat_activity`. */
  name?: string;
  /** Seconds after which an unused connection is closed; never by default. */
  idleSeconds?: number;
  /** Called for each notification that one of the connections has asked for by `listen`. */
  onNotify?: (channel: string, payload: string) => void;
  /** Called whenever one of the connections has ended, by itself or by `end`. */
  onClose?: () => void;
  /** Told every statement as it is sent: for benchmarks, which send the same. */
  onStatement?: (text: string, values: unknown[]) => void;
}

/**
 * A pool; it connects at the first query. An int8 arrives as a number while that is exact, else as a string; a
 * timestamp arrives as the string that the wire carries, RFC 3339 in UTC with milliseconds: a Date would cost more than
 * half of reading a row, only to be printed again.
 */
export function connect(url: string, options: ConnectOptions = {}): Sql {
  const { max = 10, name = "atelier", idleSeconds, onNotify, onClose, onStatement } = options;
  return postgres(url, {
    max,
    idle_timeout: idleSeconds,
    connect_timeout: 10,
    // The default grows to minutes, and a database that is back should be noticed within a second.
    backoff: (attempt: number) => Math.min(1, 0.05 * 2 ** attempt),
    onnotice: () => {},
    // Not in its types; its own `listen` uses it, but opens a connection that nobody else can ask whether it lives.
    ...({ onnotify: onNotify } as object),
    // Asked by the connection itself, so that nobody catches its failure; who only listens reads no arrays.
    fetch_types: onNotify === undefined,
    onclose: onClose,
    ...(onStatement ? { debug: (_connection, text, values) => onStatement(text, values) } : {}),
    connection: { application_name: name, TimeZone: "UTC" },
    types: {
      bigint: { to: 20, from: [20], parse: parseInteger, serialize: String },
      date: {
        to: 1184,
        from: [1082, 1114, 1184],
        parse: parseInstant,
        serialize: (value: Date | string) => (value instanceof Date ? value.toISOString() : value),
      },
    },
  }) as unknown as Sql;
}

function parseInteger(text: string): number {
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : (text as unknown as number);
}

/** `2027-11-22 10:50:00.5+00` -> `2027-11-22T10:50:00.500Z`; a date stays as it is. */
function parseInstant(text: string): string {
  if (text.length <= 10) return text;
  const [second = "", fraction = ""] = text.replace(/\+00(:00)?$/, "").split(".");
  return `${second.replace(" ", "T")}.${fraction.slice(0, 3).padEnd(3, "0")}Z`;
}

/** One line on why the database at `url` cannot be used. Never holds the password, nor any other part of the query. */
export function describeDatabaseError(error: unknown, url: string): string {
  const { code, message } = error as { code?: string; message?: string };
  const { host, user, database } = describeUrl(url);
  switch (code) {
    case "ECONNREFUSED":
    case "CONNECTION_CLOSED":
    case "CONNECTION_ENDED":
    case "ECONNRESET":
      return `DATABASE_URL: no PostgreSQL answers at ${host} (connection refused or closed)`;
    case "CONNECT_TIMEOUT":
    case "ETIMEDOUT":
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return `DATABASE_URL: ${host} does not answer`;
    case "ENOTFOUND":
    case "EAI_AGAIN":
    case "ENODATA":
      return `DATABASE_URL: the host ${host} is not known`;
    case "3D000":
      return `DATABASE_URL: there is no database "${database}" at ${host}`;
    case "28P01":
    case "28000":
      return `DATABASE_URL: ${host} refuses the user "${user}" (wrong name or password)`;
    case "53300":
      return `DATABASE_URL: ${host} has no free connection`;
    case "57P03":
      return `DATABASE_URL: PostgreSQL at ${host} is starting up or shutting down`;
    default:
      return `DATABASE_URL: ${host}: ${hidePassword((message || code) ?? String(error), url).split("\n")[0]}`;
  }
}

function describeUrl(text: string) {
  try {
    const url = new URL(text);
    return {
      host: `${url.hostname || "localhost"}:${url.port || 5432}`,
      user: decodeURIComponent(url.username),
      database: decodeURIComponent(url.pathname.slice(1)) || decodeURIComponent(url.username),
    };
  } catch {
    return { host: "the given address", user: "", database: "" };
  }
}

function hidePassword(text: string, url: string): string {
  const password = /:\/\/[^:/@]*:([^@/]+)@/.exec(url)?.[1];
  if (!password) return text;
  return [password, decodeURIComponent(password)].reduce((line, secret) => line.replaceAll(secret, "***"), text);
}

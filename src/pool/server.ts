/** A server's row as the drivers need it. */
import type { PendingQuery, Row } from "postgres";
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";
import type { EngineName, EngineTarget, ProbeReport } from "../drivers/driver.ts";

export interface ServerRow {
  id: number;
  type: "train" | "infer";
  engine: EngineName | null;
  status: string;
  ip: string;
  port: number;
  tls: boolean;
  tls_ca: string | null;
  username: string;
  password_sealed: string | null;
  private_key_sealed: string | null;
  host_key: string | null;
  shared_dir: string | null;
  checkpoints: Partial<Record<"SD1.5" | "SD2", string>>;
  facts: Partial<ProbeReport>;
  failures: number;
  last_seen_at: string | null;
  /** Another one when the server is to be reached elsewhere, or in another way. */
  address: string;
}

export async function findServer(sql: Sql, id: number): Promise<ServerRow | null> {
  const [row] = await serverRows(sql, sql`id = ${id}`);
  return row ?? null;
}

/** Of a row of `servers`: all that `toTarget` goes by, and which driver it is for. */
export const address = (sql: Sql) => sql`
  md5(row(engine, ip, port, tls, tls_ca, username, password_sealed, private_key_sealed, host_key, shared_dir)::text)
`;

export function serverRows(sql: Sql, condition: PendingQuery<Row[]>): PendingQuery<ServerRow[]> {
  return sql<ServerRow[]>`
    select id, type, engine, status, ip, port, tls, tls_ca, username, password_sealed, private_key_sealed, host_key,
      shared_dir, checkpoints, facts, failures, last_seen_at, ${address(sql)} as address
    from servers
    where ${condition}
  `;
}

export function toTarget(server: ServerRow, secrets: Secrets): EngineTarget {
  return {
    host: server.ip,
    port: server.port,
    tls: server.tls,
    tlsCa: server.tls_ca ?? undefined,
    username: server.username || undefined,
    password: server.password_sealed ? secrets.open(server.password_sealed) : undefined,
    privateKey: server.private_key_sealed ? secrets.open(server.private_key_sealed) : undefined,
    hostKey: server.host_key ?? undefined,
    sharedDir: server.shared_dir ?? undefined,
  };
}

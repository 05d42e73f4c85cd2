/** Probing: what each server is, whether it answers, and what it can do. */
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";
import { EngineError, type ProbeReport } from "../drivers/driver.ts";
import { driverOf, drivers } from "../drivers/index.ts";
import { type ServerRow, toTarget } from "./server.ts";

const timeoutMs = 4_000;
/** One lost answer is no outage. */
const failuresUntilError = 2;

/** Asks one server and writes what it said. @returns whether it can take work now and could not before */
export async function probeServer(sql: Sql, secrets: Secrets, server: ServerRow): Promise<boolean> {
  try {
    const report = await ask(server, secrets);
    return await recordAnswer(sql, server, report);
  } catch (error) {
    await recordFailure(sql, server, describe(error));
    return false;
  }
}

async function ask(server: ServerRow, secrets: Secrets): Promise<ProbeReport> {
  const target = toTarget(server, secrets);
  if (server.engine) {
    const driver = driverOf(server.engine);
    if (!driver) throw new EngineError("wrong-engine", `There is no driver for ${server.engine} yet`);
    return driver.probe(target, AbortSignal.timeout(timeoutMs));
  }
  // Credentials are sent only to an engine that was recognised, or asks for them.
  const { username: _u, password: _p, ...anonymous } = target;
  let last: unknown = new EngineError("wrong-engine", "No known engine answers there");
  for (const driver of drivers) {
    try {
      return await driver.probe(anonymous, AbortSignal.timeout(timeoutMs));
    } catch (error) {
      last = error;
      if (error instanceof EngineError && error.errorClass === "unauthorized" && target.username) {
        return driver.probe(target, AbortSignal.timeout(timeoutMs));
      }
      if (!(error instanceof EngineError) || error.errorClass !== "wrong-engine") throw error;
    }
  }
  throw last;
}

async function recordAnswer(sql: Sql, server: ServerRow, report: ProbeReport): Promise<boolean> {
  const { queue, models: _live, ...facts } = report;
  const checkpoints = Object.keys(server.checkpoints).length > 0 ? server.checkpoints : report.checkpoints;
  const status = report.isModelLoaded === false ? "idle" : "ready";
  const [row] = await sql<{ status: string }[]>`
    update servers
    set engine = ${report.engine}, facts = ${sql.json(facts as never)}, queue = ${sql.json(queue)},
      checkpoints = ${sql.json(checkpoints as never)}, error = null, failures = 0, last_seen_at = now(),
      status = case
        when status = 'closing' then 'closing'
        when exists (select from leases where server_id = servers.id) then 'working'
        else ${status}
      end
    where id = ${server.id}
    returning status
  `;
  return row !== undefined && row.status !== "closing" && (server.status === "initial" || server.status === "error");
}

async function recordFailure(sql: Sql, server: ServerRow, error: string): Promise<void> {
  const isOut = server.status === "initial" || server.failures + 1 >= failuresUntilError;
  await sql`
    update servers
    set failures = failures + 1, error = ${error}, queue = null,
      status = case when status = 'closing' or not ${isOut} then status else 'error' end
    where id = ${server.id}
  `;
}

/** For the admins who read the server's record. */
function describe(error: unknown): string {
  if (error instanceof EngineError) return error.message;
  if ((error as Error)?.name === "TimeoutError") return `It did not answer within ${timeoutMs / 1000} s`;
  return `Probing failed: ${(error as Error)?.message ?? error}`;
}

/** A server that failed a task in a way that speaks of its absence is set aside until it answers a probe. */
export async function setAside(sql: Sql, serverId: number, error: string): Promise<void> {
  await sql`
    update servers
    set status = 'error', error = ${error}, failures = failures + 1
    where id = ${serverId} and status <> 'closing'
  `;
}

/** Probing: what each server is, whether it answers, and what it can do. */
import type { Secrets } from "../auth/secrets.ts";
import type { Sql } from "../db/client.ts";
import { type Driver, EngineError, type EngineTarget, type ErrorClass, type ProbeReport } from "../drivers/driver.ts";
import { openHostFiles } from "../drivers/host-files/index.ts";
import { driverOf, drivers } from "../drivers/index.ts";
import { correctPlacements } from "./placements.ts";
import { type ServerRow, toTarget } from "./server.ts";

const timeoutMs = 4_000;
/** One lost answer is no outage. */
const failuresUntilError = 2;
/** A run that was canceled is still on its engine for a moment. */
const cancelGraceSeconds = 2;

interface Answer {
  report: ProbeReport;
  /** What is wrong with a server that can work all the same; null when nothing is. */
  warning: string | null;
}

/**
 * Asks one server and writes what it said.
 * @returns null, or why it did not answer: to be written by `recordFailure`, if it is the server's fault
 */
export async function probeServer(sql: Sql, secrets: Secrets, server: ServerRow): Promise<ProbeFailure | null> {
  const startedAt = performance.now();
  let answer: Answer;
  try {
    answer = await ask(server, secrets);
  } catch (error) {
    const isUnreachable = (error as Error)?.name === "TimeoutError" || isOfClass(error, "unreachable");
    const hostKey = error instanceof EngineError ? (error.hostKey ?? null) : null;
    return { server, detail: describe(error), hostKey, isUnreachable, isUntrusted: isOfClass(error, "untrusted") };
  }
  await recordAnswer(sql, server, answer, performance.now() - startedAt);
  await correctPlacements(sql, server.id, answer.report.models);
  return null;
}

export interface ProbeFailure {
  server: ServerRow;
  /** For the admins who read the server's record. */
  detail: string;
  /** The SSH host key that was shown all the same. */
  hostKey: string | null;
  isUnreachable: boolean;
  isUntrusted: boolean;
}

const isOfClass = (error: unknown, errorClass: ErrorClass): boolean =>
  error instanceof EngineError && error.errorClass === errorClass;

async function ask(server: ServerRow, secrets: Secrets): Promise<Answer> {
  const target = toTarget(server, secrets);
  if (server.engine) {
    const driver = driverOf(server.engine);
    if (!driver) throw new EngineError("wrong-engine", `There is no driver for ${server.engine} yet`);
    return askEngine(driver, target);
  }
  let last: unknown = new EngineError("wrong-engine", "No known engine answers there");
  for (const driver of drivers) {
    try {
      return await recognise(driver, target);
    } catch (error) {
      last = error;
      // What speaks no HTTP is as good as absent to a driver that does.
      if (!(error instanceof EngineError) || !["wrong-engine", "unreachable"].includes(error.errorClass)) throw error;
    }
  }
  throw last;
}

/** Credentials are sent only to an engine that was recognised, or asks for them: a proxy may, whatever is behind it. */
async function recognise(driver: Driver, target: EngineTarget): Promise<Answer> {
  const { username, password: _p, privateKey: _k, sharedDir, ...anonymous } = target;
  try {
    const report = await driver.probe(anonymous, AbortSignal.timeout(timeoutMs));
    if (!sharedDir) return { report, warning: null };
  } catch (error) {
    if (!(error instanceof EngineError) || error.errorClass !== "unauthorized" || !username) throw error;
  }
  return askEngine(driver, target);
}

/** An engine works without its `shared_dir`, only with less: drivers are told of one that can be used. */
async function askEngine(driver: Driver, target: EngineTarget): Promise<Answer> {
  const files = driver.ownsSharedDir ? null : openHostFiles(target);
  let hostKey: string | undefined;
  let warning: string | null = null;
  try {
    hostKey = (await files?.check(AbortSignal.timeout(timeoutMs)))?.hostKey;
  } catch (error) {
    if (!(error instanceof EngineError) || error.errorClass === "untrusted") throw error;
    hostKey = error.hostKey;
    warning = `shared_dir: ${error.message}`;
  }
  const { sharedDir: _, ...bare } = target;
  const report = await driver.probe(warning ? bare : target, AbortSignal.timeout(timeoutMs));
  return { report: { hostKey, ...report }, warning };
}

/** What is left of an engine's queue when the runs are taken away that were ours there at any moment of the probe. */
const foreignRuns = (sql: Sql, serverId: number, { running, waiting }: ProbeReport["queue"], sinceMs: number) => sql`
  greatest(0, ${running + waiting} - (
    select count(*)::int
    from attempts a
    left join leases l on l.task_id = a.task_id and a.ended_at is null
    where a.server_id = ${serverId}
      and a.started_at > now() - interval '30 days'
      and coalesce(
        coalesce(l.freed_at, a.ended_at) > clock_timestamp() - make_interval(secs => ${sinceMs / 1000 + cancelGraceSeconds}),
        true
      )
  ))
`;

async function recordAnswer(sql: Sql, server: ServerRow, { report, warning }: Answer, tookMs: number): Promise<void> {
  const { queue, models: _live, hostKey = null, ...facts } = report;
  const checkpoints = Object.keys(server.checkpoints).length > 0 ? server.checkpoints : report.checkpoints;
  const status = report.isModelLoaded === false ? "idle" : "ready";
  await sql`
    update servers
    set engine = ${report.engine}, facts = ${sql.json(facts as never)}, queue = ${sql.json(queue)},
      foreign_runs = ${foreignRuns(sql, server.id, queue, tookMs)},
      checkpoints = ${sql.json(checkpoints as never)}, failures = 0, last_seen_at = now(),
      error = case when aside_until > now() then error else ${warning} end,
      host_key = coalesce(host_key, ${pinnable(server, hostKey)}),
      status = case
        when status = 'closing' then 'closing'
        when aside_until > now() then 'error'
        when exists (select from leases where server_id = servers.id) then 'working'
        else ${status}
      end
    where id = ${server.id}
  `;
}

/** Of a probe that knew none: an admin may have taken away meanwhile the one that another probe was checked against. */
function pinnable(server: ServerRow, hostKey: string | null): string | null {
  return server.host_key === null ? hostKey : null;
}

export async function recordFailure(sql: Sql, { server, detail, isUntrusted, hostKey }: ProbeFailure): Promise<void> {
  const isOut = isUntrusted || server.status === "initial" || server.failures + 1 >= failuresUntilError;
  await sql`
    update servers
    set failures = failures + 1, error = ${detail}, queue = null,
      host_key = coalesce(host_key, ${pinnable(server, hostKey)}),
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

/** Why a task does not run yet, by the rules of dispatch (sql/0031_dispatch.sql) in their order. Counts, and no names. */
import type { Sql } from "../db/client.ts";
import { type Outlook, readPlaces } from "./outlook.ts";
import { findAhead, findCompetition, findRivals } from "./position.ts";
import { isInService, type Snapshot, type WorkType } from "./snapshot.ts";

export const reasonCodes = [
  "preparing",
  "paused",
  "no-worker",
  "backing-off",
  "deadline-passed",
  "no-server",
  "no-capable-server",
  "servers-out",
  "owner-limit",
  "servers-busy",
  "model-elsewhere",
  "queue",
  "workers-busy",
  "next",
] as const;
export type ReasonCode = (typeof reasonCodes)[number];

export interface Reason {
  code: ReasonCode;
  detail: string;
  /** What has to happen. */
  unblock: string;
}

/** As dispatch has it. */
const patienceSeconds = 15;

interface Facts {
  status: string;
  type: WorkType;
  need_id: number;
  user_id: number;
  wants: Record<string, unknown>;
  not_before: string | null;
  is_backing_off: boolean;
  is_too_late: boolean;
  is_impatient: boolean;
  id: number;
  priority: number;
  /** Null while it may not be dispatched. */
  rank: number | null;
  /** Tasks of its owner and type that run. */
  running: number;
  servers: number;
  unprobed: number;
  /** What the server that comes closest lacks. */
  obstacles: string[];
  /** Servers that can run it, by status. */
  capable: Record<string, number>;
  /** Of those in service: slots that are free and slots in all, where the task has not failed before, or anywhere when it has failed everywhere. */
  free: number;
  slots: number;
  /** Of those, the ones that hold its model's file. */
  holders: number;
  holders_free: number;
}

/** All that keeps a task now, in order; empty when it runs or has ended. `next` stands alone: nothing keeps it. */
export async function explain(sql: Sql, outlook: Outlook, taskId: number): Promise<Reason[]> {
  const facts = await readFacts(sql, taskId);
  if (!facts || !["initial", "ready", "waiting"].includes(facts.status)) return [];
  if (facts.status !== "waiting") return [reasons.preparing()];
  const snapshot = await outlook.snapshot(sql);
  const rivals = findRivals(snapshot, facts.need_id);
  const waiter = (await readPlaces(sql, [facts], () => rivals)).get(facts.id);
  const ahead = waiter ? findAhead(findCompetition(snapshot, facts.type, rivals), waiter, outlook.maxRunning) : null;

  const found = [...ofPool(snapshot), ...ofTask(facts), ...ofServers(facts)];
  const room = outlook.maxRunning - facts.running;
  if (room <= (ahead?.own ?? 0)) found.push(reasons.ownerLimit(facts, room > 0 ? (ahead?.own ?? 0) : 0));
  if (facts.slots > 0) {
    if (facts.free === 0) found.push(reasons.serversBusy(facts));
    else if (facts.holders > 0 && facts.holders_free === 0 && !facts.is_impatient) found.push(reasons.modelElsewhere());
    if (ahead && ahead.tasks > 0 && ahead.tasks >= facts.free) found.push(reasons.queue(ahead.tasks));
    if (ahead && snapshot.workers > 0 && snapshot.room <= Math.min(ahead.tasks, facts.free)) {
      found.push(reasons.workersBusy(snapshot));
    }
  }
  return found.length > 0 ? found : [reasons.next()];
}

/** The first reason why tasks of a user with `running` others wait, for counting them. */
export function explainQueue(snapshot: Snapshot, needId: number, running: number, maxRunning: number): ReasonCode {
  const [pool] = ofPool(snapshot);
  if (pool) return pool.code;
  const need = snapshot.needs.get(needId);
  const ofType = snapshot.supply.filter(({ type }) => type === need?.type);
  const capable = ofType.filter(({ profile_id }) => need?.profiles.includes(profile_id ?? 0));
  const serving = capable.filter(isInService);
  if (ofType.length === 0) return "no-server";
  if (capable.length === 0) return "no-capable-server";
  if (serving.length === 0) return "servers-out";
  if (running >= maxRunning) return "owner-limit";
  if (serving.every(({ free }) => free === 0)) return "servers-busy";
  return snapshot.room <= 0 ? "workers-busy" : "queue";
}

function ofPool(snapshot: Snapshot): Reason[] {
  if (snapshot.isPaused) return [reasons.paused()];
  return snapshot.workers === 0 ? [reasons.noWorker()] : [];
}

function ofTask(facts: Facts): Reason[] {
  return [
    ...(facts.is_backing_off ? [reasons.backingOff(facts.not_before ?? "")] : []),
    ...(facts.is_too_late ? [reasons.deadlinePassed()] : []),
  ];
}

function ofServers(facts: Facts): Reason[] {
  if (facts.servers === 0) return [reasons.noServer(facts.type)];
  const statuses = Object.keys(facts.capable);
  if (statuses.length === 0) return [reasons.noCapableServer(facts)];
  return statuses.some((status) => isInService({ status })) ? [] : [reasons.serversOut(facts.capable)];
}

const plural = (count: number, one: string, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const kinds: Record<WorkType, string> = { train: "training", infer: "inference" };

const lacks: Record<string, (wants: Record<string, unknown>) => string> = {
  base_model: (wants) => `a checkpoint for ${wants.base_model}`,
  model_type: (wants) => `support for models of type ${wants.model_type}`,
  scheduler: (wants) => `the scheduler ${wants.scheduler}`,
  pixels: () => "room for so large a picture",
  model_megabytes: () => "room for so large a model file",
};

const conditions: Record<string, (count: number) => string> = {
  initial: (count) => `${count} not probed yet`,
  error: (count) => `${count} not answering`,
  closing: (count) => `${count} draining`,
};

const reasons = {
  preparing: (): Reason => ({
    code: "preparing",
    detail: "What it needs is being checked and fetched",
    unblock: "It gets in line for a server as soon as all of it is in our own storage",
  }),
  paused: (): Reason => ({
    code: "paused",
    detail: "The pool is paused: nothing is started",
    unblock: "An admin resumes the pool",
  }),
  noWorker: (): Reason => ({
    code: "no-worker",
    detail: "No worker is running",
    unblock: "An operator starts a worker",
  }),
  backingOff: (at: string): Reason => ({
    code: "backing-off",
    detail: `An attempt failed, and the next one is not made before ${at}`,
    unblock: "That time comes",
  }),
  deadlinePassed: (): Reason => ({
    code: "deadline-passed",
    detail: "Its start_before has passed: it is about to end with an error",
    unblock: "A later start_before, or none",
  }),
  noServer: (type: WorkType): Reason => ({
    code: "no-server",
    detail: `There is no server for ${kinds[type]}`,
    unblock: "An admin adds one",
  }),
  noCapableServer({ type, servers, unprobed, obstacles, wants }: Facts): Reason {
    const missing = obstacles.map((name) => lacks[name]?.(wants) ?? name).join(" and ");
    const known = servers - unprobed;
    const judged =
      known === 1
        ? `The server for ${kinds[type]} cannot run it`
        : `None of the ${known} servers for ${kinds[type]} can run it`;
    const unknown = unprobed === 1 ? "one has not been probed yet" : `${unprobed} have not been probed yet`;
    const parts = [
      ...(known > 0 ? [judged] : []),
      ...(unprobed > 0 ? [`Of the servers for ${kinds[type]} ${unknown}`] : []),
    ];
    return {
      code: "no-capable-server",
      detail: `${parts.join(". ")}${missing ? `. The closest lacks ${missing}` : ""}`,
      unblock: missing ? `A server with ${missing}` : "A server answers that can run it",
    };
  },
  serversOut(capable: Record<string, number>): Reason {
    const all = Object.values(capable).reduce((sum, count) => sum + count, 0);
    const told = Object.entries(capable).map(([status, count]) => conditions[status]?.(count) ?? `${count} ${status}`);
    return {
      code: "servers-out",
      detail: `${all === 1 ? "The only server" : `All ${all} servers`} that can run it ${all === 1 ? "is" : "are"} out of service: ${told.join(", ")}`,
      unblock: "One of them answers again, or an admin ends its draining",
    };
  },
  ownerLimit: ({ running, type }: Facts, ahead: number): Reason => ({
    code: "owner-limit",
    detail: `Its owner has ${plural(running, "task")} for ${kinds[type]} running${ahead > 0 ? `, and ${ahead} more go first` : ""}: no more may run at once`,
    unblock: "Some of them end",
  }),
  serversBusy: ({ slots }: Facts): Reason => ({
    code: "servers-busy",
    detail: slots === 1 ? "The only slot that can run it is taken" : `All ${slots} slots that can run it are taken`,
    unblock: "What runs there ends",
  }),
  modelElsewhere: (): Reason => ({
    code: "model-elsewhere",
    detail: "The server that holds its model is busy",
    unblock: `It is free again, or the task has waited ${patienceSeconds} seconds: then any server will do`,
  }),
  queue: (tasks: number): Reason => ({
    code: "queue",
    detail: tasks === 1 ? "Another task has its turn first" : `${tasks} tasks have their turn first`,
    unblock: "They start, or a server more is free",
  }),
  workersBusy: ({ workers }: Snapshot): Reason => ({
    code: "workers-busy",
    detail: `${workers === 1 ? "The only worker attends" : `All ${workers} workers attend`} as many tasks as it can`,
    unblock: "A task ends, or an operator starts another worker",
  }),
  next: (): Reason => ({ code: "next", detail: "Nothing keeps it: it is about to start", unblock: "Nothing" }),
};

async function readFacts(sql: Sql, taskId: number): Promise<Facts | null> {
  const [row] = await sql<Facts[]>`
    with task as materialized (
      select t.*, n.wants, m.hash
      from tasks t
      join needs n on n.id = t.need_id
      left join models m on m.id = t.model_id
      where t.id = ${taskId}
    ), judged as materialized (
      select j.* from task, judge_servers(task.need_id) j
    ), serving as materialized (
      select s.slots, greatest(0, s.slots - s.foreign_runs - (select count(*) from leases l where l.server_id = s.id)) as free,
        s.id = any (t.avoid) as is_avoided,
        s.id <> all (t.avoid)
          and exists (select from placements p where p.server_id = s.id and p.hash = t.hash) as is_holder
      from judged j
      join servers s on s.id = j.server_id
      cross join task t
      where j.lacks = '{}'
        and j.status in ('idle', 'ready', 'working')
    ), open as (
      select * from serving where not is_avoided or not exists (select from serving o where not o.is_avoided)
    )
    select t.id, t.status, t.type, t.need_id, t.user_id, t.priority, t.rank, t.wants, t.not_before,
      t.not_before is not null as is_backing_off,
      coalesce(t.start_before <= now(), false) as is_too_late,
      now() - t.waiting_at >= make_interval(secs => ${patienceSeconds}) as is_impatient,
      (
        select count(*)::int from leases l join needs n on n.id = l.need_id
        where l.user_id = t.user_id and n.type = t.type
      ) as running,
      (select count(*)::int from judged) as servers,
      (select count(*)::int from judged where lacks is null) as unprobed,
      find_obstacles(t.need_id) as obstacles,
      coalesce(
        (select jsonb_object_agg(c.status, c.count) from (
          select status, count(*)::int as count from judged where lacks = '{}' group by 1
        ) c),
        '{}'
      ) as capable,
      (select coalesce(sum(free), 0)::int from open) as free,
      (select coalesce(sum(slots), 0)::int from open) as slots,
      (select count(*)::int from open where is_holder) as holders,
      (select coalesce(sum(free), 0)::int from open where is_holder) as holders_free
    from task t
  `;
  return row ?? null;
}

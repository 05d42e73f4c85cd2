/** When a task is expected to end: from how fast such tasks went lately, and from how many go before it. */
import type { Sql } from "../db/client.ts";
import type { Ahead } from "./position.ts";
import { isInService, type Need, type Snapshot } from "./snapshot.ts";

/** Half of such tasks end by `p50`, nine of ten by `p90`. In seconds. */
export interface Interval {
  p50: number;
  p90: number;
}

/** An attempt that succeeded. */
export interface Sample {
  need_id: number;
  server_id: number | null;
  model_id: number | null;
  gpu_seconds: number;
  steps: number | null;
  steps_per_second: number | null;
}

/** What is known of the work itself. */
export interface Work {
  needId: number;
  modelId: number | null;
  /** Null while it waits. */
  serverId: number | null;
  /** Over all pictures, or of the training. */
  steps: number;
}

/** Enough to speak of a server or a model by itself. */
const enough = 3;
const perNeed = 50;

/** The last successes of each kind of task that waits or runs. */
export function readSamples(sql: Sql): Promise<Sample[]> {
  return sql<Sample[]>`
    select a.need_id, a.server_id, a.model_id, a.gpu_seconds, a.steps, a.steps_per_second
    from needs n
    cross join lateral (
      select * from attempts
      where need_id = n.id and outcome = 'success'
      order by ended_at desc
      limit ${perNeed}
    ) a
    where n.id in (select q.need_id from queues q where q.waiting > 0 union select l.need_id from leases l)
  `;
}

/**
 * How long the work takes, loading and saving included: by its own model on its own server if that has been seen often
 * enough, else more widely, at last by other work of the type in proportion to the pixels; by a guess when nothing was.
 */
export function estimateWork(work: Work, samples: Sample[], needs: Map<number, Need>): Interval {
  const need = needs.get(work.needId);
  const same = samples.filter((sample) => sample.need_id === work.needId);
  const onServer = work.serverId === null ? same : same.filter((sample) => sample.server_id === work.serverId);
  const ofModel = (all: Sample[]) => all.filter((sample) => sample.model_id === work.modelId);
  for (const chosen of [ofModel(onServer), onServer, ofModel(same), same]) {
    if (chosen.length >= enough) return percentiles(chosen.map((sample) => timeOf(sample, work.steps)));
  }
  const akin = same.length > 0 ? same : samples.filter((sample) => needs.get(sample.need_id)?.type === need?.type);
  if (akin.length === 0) return { p50: need?.seconds ?? 0, p90: 2 * (need?.seconds ?? 0) };
  const { p50, p90 } = percentiles(
    akin.map((sample) => {
      const pixels = needs.get(sample.need_id)?.wants.pixels;
      return timeOf(sample, work.steps, need?.wants.pixels && pixels ? need.wants.pixels / pixels : 1);
    }),
  );
  // So few may all have been lucky.
  return { p50, p90: Math.max(p90, 1.5 * p50) };
}

/** What the attempt would have taken with other steps, each `weight` times as heavy. */
function timeOf({ gpu_seconds, steps, steps_per_second }: Sample, wanted: number, weight = 1): number {
  if (!steps || !steps_per_second) return gpu_seconds * weight;
  const apart = Math.max(0, gpu_seconds - steps / steps_per_second);
  return apart + (wanted / steps_per_second) * weight;
}

function percentiles(values: number[]): Interval {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  return { p50: at(0.5), p90: at(0.9) };
}

/** What is left of a run: by its own progress once that tells something, else by what such work takes. */
export function estimateRest(total: Interval, elapsed: number, progress: number): Interval {
  const left = (whole: number) => Math.max(1, whole - elapsed);
  if (progress < 5) return { p50: left(total.p50), p90: Math.max(left(total.p50), left(total.p90)) };
  const p50 = Math.max(1, (elapsed * (100 - progress)) / progress);
  return { p50, p90: p50 * Math.max(1.1, Math.min(3, total.p90 / Math.max(total.p50, 0.001))) };
}

/**
 * How long a waiting task waits: the work before it flows into the slots of the servers that can run it, each from when
 * it is free. Null when nobody can say: the pool is paused, no worker lives, or no server in service can run it.
 *
 * @param typical what one task of any kind takes
 */
export function estimateStart(
  snapshot: Snapshot,
  needId: number,
  ahead: Ahead,
  typical: (needId: number) => Interval,
): Interval | null {
  const need = snapshot.needs.get(needId);
  const serving = snapshot.supply.filter((row) => isInService(row) && need?.profiles.includes(row.profile_id ?? 0));
  const slots = serving.reduce((sum, { slots }) => sum + slots, 0);
  if (snapshot.isPaused || snapshot.workers === 0 || slots === 0) return null;
  const kinds = new Set(serving.map(({ profile_id }) => profile_id));
  const busy = snapshot.runs.filter(({ profile_id }) => kinds.has(profile_id));
  const free = serving.reduce((sum, { free }) => sum + free, 0);
  const startBy = (part: keyof Interval, work: number) =>
    flow(
      free,
      busy.map(({ need_id, elapsed }) => Math.max(1, typical(need_id)[part] - elapsed)),
      work,
    );
  // Many together spread less than each by itself.
  const one = typical(needId);
  const spread = one.p50 > 0 ? (one.p90 - one.p50) / one.p50 : 0;
  const wider = ahead.tasks > 0 ? 1 + spread / Math.sqrt(ahead.tasks) : 1;
  const p50 = startBy("p50", ahead.seconds);
  return { p50, p90: Math.max(p50, startBy("p90", ahead.seconds * wider)) };
}

/**
 * When a slot is free after so many seconds of work have gone into `free` slots and those that become free at `later`
 * times.
 */
function flow(free: number, later: number[], seconds: number): number {
  const sorted = later.toSorted((a, b) => a - b);
  let slots = free;
  let level = free > 0 ? seconds / free : Number.POSITIVE_INFINITY;
  let sum = 0;
  for (const at of sorted) {
    if (level <= at) return level;
    slots += 1;
    sum += at;
    level = (seconds + sum) / slots;
  }
  // With no slot of ours all are taken by runs that are not.
  return slots > 0 ? level : seconds;
}

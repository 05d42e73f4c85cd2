/** Who is before whom: the order of dispatch (sql/0031_dispatch.sql), worked out for one task. */
import { type Head, isInService, type Line, type Need, type Snapshot } from "./snapshot.ts";

/** A waiting task. */
export interface Waiter extends Head {
  /** Among its owner's tasks that the same servers can run, from 1. */
  place: number;
}

export interface Ahead {
  /** Tasks that go first, where the same servers can run them. */
  tasks: number;
  /** Those of the same owner. */
  own: number;
  /** All of them by what they ask of a server. */
  byNeed: Map<number, number>;
}

/** What tasks are ordered by. */
interface Turn {
  turn: number;
  cost: number;
  rank: number;
  id: number;
}

/** Ten minutes that pass without service are worth a point of priority, see turn_of(). */
const turnSeconds = 600;

/** The needs that compete for the servers in service that this one can use; for any it can use when there are none. */
export function findRivals(snapshot: Snapshot, needId: number): Set<number> {
  const need = snapshot.needs.get(needId);
  const can = snapshot.supply.filter(({ profile_id }) => need?.profiles.includes(profile_id ?? 0));
  const serving = can.filter(isInService);
  const wanted = new Set((serving.length > 0 ? serving : can).map(({ profile_id }) => profile_id));
  const rivals = [...snapshot.needs.values()].filter((other) => other.profiles.some((id) => wanted.has(id)));
  return new Set([needId, ...rivals.map(({ id }) => id)]);
}

/**
 * Of other users no more tasks count than they may have running; all of one's own do. Where so many wait that not all
 * can be looked at, the rest of each user's is taken for tasks of the usual length.
 *
 * @param maxRunning tasks of one type that one user may have running at once
 */
export function findAhead(snapshot: Snapshot, rivals: Set<number>, waiter: Waiter, maxRunning: number): Ahead {
  const { needs, lines } = snapshot;
  const ahead: Ahead = { tasks: 0, own: 0, byNeed: new Map() };
  const count = (needId: number, tasks: number) => {
    ahead.tasks += tasks;
    ahead.byNeed.set(needId, (ahead.byNeed.get(needId) ?? 0) + tasks);
  };
  const mine = lines.find((line) => line.user_id === waiter.user_id && line.type === waiter.type);
  const limit = mine ? turnOf(mine, waiter, waiter.place, needs) : null;
  for (const line of lines) {
    if (line === mine || line.type !== waiter.type || !limit) continue;
    let room = maxRunning - line.running;
    for (const [needId, tasks] of before(line, limit, rivals, needs)) {
      const going = Math.min(room, tasks);
      if (going <= 0) break;
      room -= going;
      count(needId, going);
    }
  }
  if (mine && limit && mine.tasks.length >= mine.waiting) {
    for (const [needId, tasks] of before(mine, limit, rivals, needs)) {
      ahead.own += tasks;
      count(needId, tasks);
    }
  } else {
    ahead.own = waiter.place - 1;
    count(waiter.need_id, ahead.own);
  }
  return ahead;
}

/** How many tasks of a line go before a turn, by need, in their order. */
function before(
  line: Line,
  limit: Turn,
  rivals: Set<number>,
  needs: Map<number, Need>,
): [needId: number, tasks: number][] {
  const found: [number, number][] = [];
  let place = 0;
  for (const task of line.tasks) {
    if (!rivals.has(task.need_id)) continue;
    place += 1;
    if (isBefore(turnOf(line, task, place, needs), limit)) found.push([task.need_id, 1]);
  }
  if (line.tasks.length >= line.waiting) return found;
  const rest = line.queues.filter((queue) => rivals.has(queue.need_id));
  const waiting = rest.reduce((sum, queue) => sum + queue.waiting, 0);
  const left = waiting - place;
  if (left <= 0) return found;
  const seconds = rest.reduce((sum, queue) => sum + queue.waiting * secondsOf(needs, queue.need_id), 0) / waiting;
  const turn = Math.floor(line.since / turnSeconds) - (line.tasks.at(-1)?.priority ?? 0);
  const cheaper = Math.ceil((limit.cost - line.used) / seconds) - place;
  const going = turn < limit.turn ? left : turn > limit.turn ? 0 : Math.max(0, Math.min(left, cheaper));
  const [longest] = rest.toSorted((a, b) => b.waiting - a.waiting);
  if (longest && going > 0) found.push([longest.need_id, going]);
  return found;
}

/** By its owner's turn, or its queue's own when that has been held back for hours. */
function turnOf(line: Line, task: Head, place: number, needs: Map<number, Need>): Turn {
  const seconds = secondsOf(needs, task.need_id);
  const { rank, id, priority } = task;
  const turn = (since: number) => Math.floor(since / turnSeconds) - priority;
  const usual = { turn: turn(line.since), cost: line.used + (place - 1) * seconds, rank, id };
  const queue = line.queues.find(({ need_id }) => need_id === task.need_id);
  if (!queue?.is_overlooked) return usual;
  const own = { turn: turn(queue.since), cost: (task.queue_place - 1) * seconds, rank, id };
  return isBefore(own, usual) ? own : usual;
}

function isBefore(a: Turn, b: Turn): boolean {
  if (a.turn !== b.turn) return a.turn < b.turn;
  if (a.cost !== b.cost) return a.cost < b.cost;
  return a.rank !== b.rank ? a.rank < b.rank : a.id < b.id;
}

function secondsOf(needs: Map<number, Need>, needId: number): number {
  return needs.get(needId)?.seconds ?? 1;
}

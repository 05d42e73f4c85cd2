/** Who is before whom: the order of dispatch (sql/0031_dispatch.sql), worked out for one task. */
import { type Head, isInService, type Line, type Need, type Snapshot, type WorkType } from "./snapshot.ts";

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
  /** How long all of them take. */
  seconds: number;
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

/** A line as those see it who compete with it for certain servers. */
interface Competitor {
  line: Line;
  /** The first ones, in their order, with their turns. */
  heads: { turn: Turn; length: number }[];
  /** How many more there are, and what they cost and take on average. */
  rest: number;
  turn: number;
  cost: number;
  length: number;
}

/** All lines in front of whoever needs `rivals`: worked out once for all who ask for the same. */
export interface Competition {
  competitors: Competitor[];
  snapshot: Snapshot;
}

/**
 * @param rivals needs of one type
 * @param lengthOf how long such a task takes, in seconds, for telling the time
 */
export function findCompetition(
  snapshot: Snapshot,
  type: WorkType,
  rivals: Set<number>,
  lengthOf: (needId: number) => number = () => 0,
): Competition {
  const competitors = snapshot.lines
    .filter((line) => line.type === type)
    .map((line) => compete(line, rivals, snapshot.needs, lengthOf));
  return { competitors, snapshot };
}

function compete(
  line: Line,
  rivals: Set<number>,
  needs: Map<number, Need>,
  lengthOf: (needId: number) => number,
): Competitor {
  const tasks = line.tasks.filter((task) => rivals.has(task.need_id));
  const heads = tasks.map((task, i) => ({ turn: turnOf(line, task, i + 1, needs), length: lengthOf(task.need_id) }));
  let waiting = 0;
  let cost = 0;
  let length = 0;
  if (line.tasks.length < line.waiting) {
    for (const queue of line.queues) {
      if (!rivals.has(queue.need_id)) continue;
      waiting += queue.waiting;
      cost += queue.waiting * secondsOf(needs, queue.need_id);
      length += queue.waiting * lengthOf(queue.need_id);
    }
  }
  return {
    line,
    heads,
    rest: Math.max(0, waiting - heads.length),
    turn: Math.floor(line.since / turnSeconds) - (tasks.at(-1)?.priority ?? 0),
    cost: waiting > 0 ? cost / waiting : 1,
    length: waiting > 0 ? length / waiting : 0,
  };
}

/**
 * Of other users no more tasks count than they may have running; all of one's own do. Where so many wait that not all
 * can be looked at, the rest of each user's is taken for tasks of the usual length.
 *
 * @param maxRunning tasks of one type that one user may have running at once
 */
export function findAhead({ competitors, snapshot }: Competition, waiter: Waiter, maxRunning: number): Ahead {
  const ahead: Ahead = { tasks: 0, own: 0, seconds: 0 };
  const mine = competitors.find(({ line }) => line.user_id === waiter.user_id);
  const limit = mine && turnOf(mine.line, waiter, waiter.place, snapshot.needs);
  if (!limit) return ahead;
  for (const competitor of competitors) {
    const isMine = competitor === mine;
    let room = isMine ? Number.POSITIVE_INFINITY : maxRunning - competitor.line.running;
    for (const { turn, length } of competitor.heads) {
      if (room <= 0) break;
      if (!isBefore(turn, limit)) continue;
      room -= 1;
      ahead.tasks += 1;
      ahead.seconds += length;
      if (isMine) ahead.own += 1;
    }
    const going = Math.min(room, isMine ? waiter.place - 1 - ahead.own : restBefore(competitor, limit));
    if (competitor.rest === 0 || going <= 0) continue;
    ahead.tasks += going;
    ahead.seconds += going * competitor.length;
    if (isMine) ahead.own += going;
  }
  return ahead;
}

function restBefore({ line, heads, rest, turn, cost }: Competitor, limit: Turn): number {
  if (turn !== limit.turn) return turn < limit.turn ? rest : 0;
  return Math.max(0, Math.min(rest, Math.ceil((limit.cost - line.used) / cost) - heads.length));
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

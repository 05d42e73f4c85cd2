/**
 * One who watches, by WebSocket or by server-sent events. Who reads slowly is left out of what comes meanwhile and told
 * the newest state once all before has gone; who stops reading is closed.
 */
import type { Viewer } from "../auth/viewer.ts";
import type { Context } from "../rest/define.ts";
import type { Socket } from "../runtime/runtime.ts";
import type { Message } from "./frames.ts";

export const closeCodes = { gone: 1000, goingAway: 1001, tryAgain: 1013, sessionEnded: 4401 } as const;

/** What a follower follows: one object, or the list of a query. */
export type Target = ObjectTarget | ListTarget;

export interface ObjectTarget {
  name: string;
  id: number | string;
}

export interface ListTarget {
  name: string;
  query: URLSearchParams;
  /** Of a viewer by whom the query was found valid. */
  context: Context;
}

/** What a follower may leave unread before it is left out; a single frame may be larger. */
const backlogBytes = 64 * 1024;
/** Without reading anything. */
const stalledMs = 10_000;
const checkMs = 100;

/** What waits for one who reads slowly. */
interface Backlog {
  /** Whether something was left out. */
  hasMissed: boolean;
  waitingBytes: number;
  /** On the clock of `performance.now`. */
  movedAt: number;
}

/** There are thousands: what all have is little, and nothing of the request that they came by. */
export class Follower {
  private socket: Socket | null = null;
  private backlog: Backlog | null = null;
  isClosed = false;
  /** Nothing has been told yet. */
  isFresh = true;

  /**
   * @param viewer one object for all followers of a session, see the hub
   * @param target one object for all followers of a topic, see the desk
   * @param format a frame as the connection carries it
   * @param known the version that the client says it holds; null for none
   */
  constructor(
    public viewer: Viewer,
    public target: Target,
    private readonly format: (message: Message) => string,
    public known: number | null = null,
  ) {}

  attach(socket: Socket): void {
    this.socket = socket;
  }

  /** What it follows: asked for the newest state once the follower has caught up. */
  topic: { catchUp(follower: Follower): void } | null = null;

  send(message: Message): void {
    if (this.isClosed || !this.socket) return;
    if (this.backlog && message.type !== "delete") {
      this.backlog.hasMissed = true;
      return;
    }
    const waiting = this.socket.send(this.format(message));
    if (waiting > backlogBytes) this.fallBehind(waiting);
  }

  close(code: number, reason: string): void {
    if (this.isClosed) return;
    this.isClosed = true;
    behind.delete(this);
    this.socket?.close(code, reason);
  }

  /** The connection has ended by itself. */
  end(): void {
    this.isClosed = true;
    behind.delete(this);
  }

  private fallBehind(waiting: number): void {
    if (this.backlog) return;
    this.backlog = { hasMissed: false, waitingBytes: waiting, movedAt: performance.now() };
    behind.add(this);
    checks ??= setInterval(checkAll, checkMs);
  }

  /**
   * Looked at again and again while it is behind: not every runtime says when a connection has drained.
   *
   * @param now on the clock of `performance.now`
   */
  check(now: number): void {
    const { backlog } = this;
    if (!backlog) return;
    const waiting = this.socket?.buffered() ?? 0;
    if (waiting === 0) {
      this.backlog = null;
      behind.delete(this);
      if (backlog.hasMissed) this.topic?.catchUp(this);
    } else if (waiting < backlog.waitingBytes) {
      backlog.waitingBytes = waiting;
      backlog.movedAt = now;
    } else if (now - backlog.movedAt > stalledMs) {
      this.close(closeCodes.tryAgain, "the client has stopped reading");
    }
  }
}

const behind = new Set<Follower>();
let checks: ReturnType<typeof setInterval> | null = null;

function checkAll(): void {
  const now = performance.now();
  for (const follower of behind) follower.check(now);
  if (behind.size > 0 || !checks) return;
  clearInterval(checks);
  checks = null;
}

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
export type Target =
  | { name: string; id: number | string }
  /** `context` is of the follower's viewer: by it the query was found valid. */
  | { name: string; query: URLSearchParams; context: Context };

/** What a follower may leave unread before it is left out; a single frame may be larger. */
const backlogBytes = 64 * 1024;
/** Without reading anything. */
const stalledMs = 10_000;
const checkMs = 100;

export class Follower {
  /** Whether something was left out. */
  private hasMissed = false;
  private isBehind = false;
  isClosed = false;
  private waitingBytes = 0;
  private movedAt = 0;

  /**
   * @param format a frame as the connection carries it
   * @param target what it follows
   * @param known the version that the client says it holds; null for none
   * @param now milliseconds of a clock that never goes back
   */
  constructor(
    public viewer: Viewer,
    readonly target: Target,
    private readonly socket: Socket,
    private readonly format: (message: Message) => string,
    readonly known: number | null = null,
    private readonly now = () => performance.now(),
  ) {}

  /** What it follows: asked for the newest state once the follower has caught up. */
  topic: { catchUp(follower: Follower): void } | null = null;

  send(message: Message): void {
    if (this.isClosed) return;
    if (this.isBehind && message.type !== "delete") {
      this.hasMissed = true;
      return;
    }
    const waiting = this.socket.send(this.format(message));
    if (waiting > backlogBytes) this.fallBehind(waiting);
  }

  close(code: number, reason: string): void {
    if (this.isClosed) return;
    this.isClosed = true;
    behind.delete(this);
    this.socket.close(code, reason);
  }

  /** The connection has ended by itself. */
  end(): void {
    this.isClosed = true;
    behind.delete(this);
  }

  private fallBehind(waiting: number): void {
    if (this.isBehind) return;
    this.isBehind = true;
    this.waitingBytes = waiting;
    this.movedAt = this.now();
    behind.add(this);
    checks ??= setInterval(checkAll, checkMs);
  }

  /** Looked at again and again while it is behind: not every runtime says when a connection has drained. */
  check(): void {
    const waiting = this.socket.buffered();
    if (waiting === 0) {
      this.isBehind = false;
      behind.delete(this);
      const { hasMissed } = this;
      this.hasMissed = false;
      if (hasMissed) this.topic?.catchUp(this);
    } else if (waiting < this.waitingBytes) {
      this.waitingBytes = waiting;
      this.movedAt = this.now();
    } else if (this.now() - this.movedAt > stalledMs) {
      this.close(closeCodes.tryAgain, "the client has stopped reading");
    }
  }
}

const behind = new Set<Follower>();
let checks: ReturnType<typeof setInterval> | null = null;

function checkAll(): void {
  for (const follower of behind) follower.check();
  if (behind.size > 0 || !checks) return;
  clearInterval(checks);
  checks = null;
}

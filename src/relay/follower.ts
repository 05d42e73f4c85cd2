/**
 * One who watches, by WebSocket or by server-sent events. Who reads slowly is left out of what comes meanwhile and told
 * the newest state once all before has gone; who stops reading is closed.
 */
import type { Viewer } from "../auth/viewer.ts";
import type { Socket } from "../runtime/runtime.ts";
import type { Message } from "./frames.ts";

export const closeCodes = { gone: 1000, goingAway: 1001, tryAgain: 1013, sessionEnded: 4401 } as const;

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
   * @param known the version that the client says it holds; null for none
   */
  constructor(
    public viewer: Viewer,
    private readonly socket: Socket,
    private readonly format: (message: Message) => string,
    readonly known: number | null = null,
  ) {}

  /** Tells the newest state; set by the topic. */
  catchUp: () => void = () => {};

  send(message: Message): void {
    if (this.isClosed) return;
    if (this.isBehind && message.type !== "delete") {
      this.hasMissed = true;
      return;
    }
    this.socket.send(this.format(message));
    const waiting = this.socket.buffered();
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
    this.movedAt = performance.now();
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
      if (hasMissed) this.catchUp();
    } else if (waiting < this.waitingBytes) {
      this.waitingBytes = waiting;
      this.movedAt = performance.now();
    } else if (performance.now() - this.movedAt > stalledMs) {
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

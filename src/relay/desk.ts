/**
 * One resource's topics. Changes that come close together are read by one statement, however many topics and followers
 * they concern, and one reading follows the other: an older state never overtakes a newer one.
 */
import type { Logger } from "pino";
import type { Viewer } from "../auth/viewer.ts";
import type { Context, Resource } from "../rest/define.ts";
import { readPage } from "../rest/read.ts";
import { type Role, readConditions, readOwn, readSeen, type Seen } from "../rest/views.ts";
import type { Follower, ListTarget } from "./follower.ts";
import { inTime, readingMs } from "./in-time.ts";
import { ListTopic } from "./list-topic.ts";
import { ObjectTopic } from "./object-topic.ts";

/** An object's changes are told at most five times a second; those in between are merged. */
const mergeMs = 200;
/** A table of which anything may have changed has its lists told anew at most so often. */
const renewMs = 1_000;
const signedMs = 5 * 60_000;
const retryMs = 1_000;
/** Of one statement. */
const maxIds = 500;

export interface DeskDeps {
  log: Logger;
  contextFor(viewer: Viewer): Promise<Context>;
}

export class Desk {
  private readonly objects = new Map<string, ObjectTopic>();
  private readonly lists = new Map<string, ListTopic>();
  /** When each changed object is to be read, on the clock of `performance.now`. */
  private readonly due = new Map<string, number>();
  /** When objects of lists were told. */
  private readonly toldAt = new Map<string, number>();
  private renewedAt = Number.NEGATIVE_INFINITY;
  private renewal: ReturnType<typeof setTimeout> | null = null;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private timerAt = Number.POSITIVE_INFINITY;
  private isBusy = false;
  private isStopped = false;

  constructor(
    private readonly resource: Resource,
    private readonly deps: DeskDeps,
  ) {}

  join(follower: Follower): void {
    const { target } = follower;
    if ("id" in target) {
      const key = String(target.id);
      const topic = this.objects.get(key) ?? new ObjectTopic(this.resource, target);
      this.objects.set(key, topic);
      topic.join(follower);
      this.dueAt(key, performance.now());
    } else {
      const key = listKey(target.query);
      const topic = this.lists.get(key) ?? this.openList(target);
      this.lists.set(key, topic);
      topic.join(follower);
      this.wakeAt(performance.now());
    }
  }

  leave(follower: Follower): void {
    const { target } = follower;
    if ("id" in target) leave(this.objects, String(target.id), follower);
    else leave(this.lists, listKey(target.query), follower);
  }

  /** Kept by their topics alone, since there are thousands. */
  followers(): Follower[] {
    return [...this.objects.values(), ...this.lists.values()].flatMap((topic) => topic.followers());
  }

  private openList(target: ListTarget): ListTopic {
    const { query, context } = target;
    const topic = new ListTopic(this.resource, target, readConditions(this.resource, query, context));
    topic.onRestart = () => this.wakeAt(performance.now());
    return topic;
  }

  /** @param ids null: any row may have changed */
  change(ids: ReadonlySet<string> | null): void {
    if (ids === null) {
      for (const [key, topic] of this.objects) this.dueAt(key, topic.toldAt + mergeMs);
      this.renewLists();
      return;
    }
    for (const id of ids) {
      const topic = this.objects.get(id);
      if (!topic && this.lists.size === 0) continue;
      this.dueAt(id, Math.max(topic?.toldAt ?? 0, this.toldAt.get(id) ?? 0) + mergeMs);
    }
  }

  /** Everything anew, as snapshots. */
  resync(): void {
    for (const [key, topic] of this.objects) {
      topic.isAnew = true;
      this.dueAt(key, 0);
    }
    for (const topic of this.lists.values()) topic.restartAll();
  }

  /** Looks again at what changes without being announced. */
  refresh(): void {
    const now = performance.now();
    for (const [key, topic] of this.objects) {
      if (topic.isMoving || (now - topic.readAt > signedMs && topic.isSigned)) this.dueAt(key, now);
    }
    for (const topic of this.lists.values()) for (const id of topic.moving()) this.dueAt(id, now);
    for (const [id, at] of this.toldAt) if (now - at > mergeMs) this.toldAt.delete(id);
  }

  stop(): void {
    this.isStopped = true;
    if (this.timer) clearTimeout(this.timer);
    if (this.renewal) clearTimeout(this.renewal);
  }

  private renewLists(): void {
    if (this.renewal || this.lists.size === 0) return;
    this.renewal = setTimeout(
      () => {
        this.renewal = null;
        this.renewedAt = performance.now();
        for (const topic of this.lists.values()) topic.restartAll();
      },
      Math.max(0, this.renewedAt + renewMs - performance.now()),
    );
  }

  private dueAt(id: string, at: number): void {
    this.due.set(id, Math.min(at, this.due.get(id) ?? Number.POSITIVE_INFINITY));
    this.wakeAt(at);
  }

  private wakeAt(at: number): void {
    if (this.isStopped || this.isBusy || at >= this.timerAt) return;
    if (this.timer) clearTimeout(this.timer);
    this.timerAt = at;
    this.timer = setTimeout(() => this.work(), Math.max(0, at - performance.now()));
  }

  private async work(): Promise<void> {
    this.timer = null;
    this.timerAt = Number.POSITIVE_INFINITY;
    this.isBusy = true;
    const now = performance.now();
    const ids: string[] = [];
    for (const [id, at] of this.due) {
      if (at <= now && ids.push(id) === maxIds) break;
    }
    for (const id of ids) this.due.delete(id);
    let retryAt = 0;
    try {
      await this.tell(ids);
    } catch (error) {
      // What was to be told still is, and whatever is told is read then.
      retryAt = this.failed(error);
      for (const id of ids) this.due.set(id, Math.min(retryAt, this.due.get(id) ?? retryAt));
    }
    for (const topic of this.lists.values()) {
      if (!topic.isAwaited) continue;
      await topic
        .greet((viewer) => this.readPage(topic.query, viewer))
        .catch((error) => {
          retryAt = this.failed(error);
        });
    }
    this.isBusy = false;
    this.wakeNext(retryAt);
  }

  /** The database may be away. @returns when to try again */
  private failed(error: unknown): number {
    if (!this.isStopped) this.deps.log.warn({ err: error, name: this.resource.name }, "changes could not be read");
    return performance.now() + retryMs;
  }

  private wakeNext(notBefore: number): void {
    let next = Number.POSITIVE_INFINITY;
    for (const [id, at] of this.due) {
      if (this.objects.has(id) || this.lists.size > 0) next = Math.min(next, at);
      else this.due.delete(id);
    }
    if ([...this.lists.values()].some((topic) => topic.isAwaited)) next = 0;
    if (next < Number.POSITIVE_INFINITY) this.wakeAt(Math.max(next, notBefore));
  }

  private contextFor(viewer: Viewer): Promise<Context> {
    return inTime(readingMs, this.deps.contextFor(viewer));
  }

  private async readPage(query: URLSearchParams, viewer: Viewer) {
    return inTime(readingMs, readPage(this.resource, query, await this.contextFor(viewer)));
  }

  private async tell(ids: string[]): Promise<void> {
    if (ids.length === 0) return;
    const topics = ids.flatMap((id) => this.objects.get(id) ?? []);
    const roles = new Set<Role>();
    for (const topic of topics) {
      topic.admit();
      for (const role of topic.roles()) roles.add(role);
    }
    for (const topic of this.lists.values()) for (const role of topic.roles()) roles.add(role);
    const context = await this.contextFor({ id: null, admin: false, sessionId: null });
    const keys = this.resource.id === "integer" ? ids.map(Number) : ids;
    const seen = await inTime(readingMs, readSeen(this.resource, keys, roles, context));
    const inName = async (one: Pick<Seen, "id">, viewer: Viewer) =>
      inTime(readingMs, readOwn(this.resource, one.id, await this.contextFor(viewer)));
    for (const topic of topics) {
      await topic.tell(seen.get(String(topic.id)) ?? null, (viewer) => inName(topic, viewer));
      if (topic.isEmpty) this.objects.delete(String(topic.id));
    }
    if (this.lists.size === 0) return;
    const now = performance.now();
    for (const id of ids) this.toldAt.set(id, now);
    for (const topic of this.lists.values()) {
      // One list that cannot be judged keeps nothing from the others: it is read anew.
      const contextFor = (viewer: Viewer) => this.contextFor(viewer);
      await topic.tell(ids, seen, { contextFor, readOwn: inName }).catch((error) => {
        this.failed(error);
        topic.restartAll();
      });
    }
  }
}

/** The same for the same conditions in another order. */
function listKey(query: URLSearchParams): string {
  const ordered = new URLSearchParams(query);
  ordered.sort();
  return ordered.toString();
}

function leave(topics: Map<string, ObjectTopic | ListTopic>, key: string, follower: Follower): void {
  const topic = topics.get(key);
  topic?.leave(follower);
  if (topic?.isEmpty) topics.delete(key);
}

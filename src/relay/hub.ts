/** Topics and who follows them: a change is read once per distinct viewer and sent to that viewer's sockets. */
import type { Logger } from "pino";
import type { Viewer } from "../auth/viewer.ts";
import { resourcesByName } from "../resources/index.ts";
import type { Context, Resource } from "../rest/define.ts";
import { findShown, view } from "../rest/read.ts";
import type { Change } from "./changes.ts";
import { changedFields, type Frame } from "./frames.ts";

/** A socket as the hub sees it. */
export interface Follower {
  send(text: string): void;
  close(code: number, reason: string): void;
}

export const closeCodes = { gone: 1000, goingAway: 1001, tryAgain: 1013, sessionEnded: 4401 } as const;

/** One topic's changes are sent at most five times a second; those in between are merged. */
const mergeMs = 200;
/** Notices of one transaction's statements arrive together: wait for the last of them. */
const settleMs = 5;
const liveMs = 5_000;

/** An object as a group's viewer sees it. */
interface State {
  version: number;
  data: Record<string, unknown>;
}

/** Sockets of one session (or of all guests) on one topic: they see the same. */
interface Group {
  viewer: Viewer;
  followers: Set<Follower>;
  last: State | null;
}

interface Topic {
  resource: Resource;
  id: number | string;
  groups: Map<string, Group>;
  /** Followers on their way in: the topic must hear of changes already. */
  joining: number;
  timer: ReturnType<typeof setTimeout> | null;
  sentAt: number;
  /** Reads of one topic run one after the other: an older state never overtakes a newer one. */
  queue: Promise<void>;
}

export interface HubDeps {
  log: Logger;
  contextFor: (viewer: Viewer) => Promise<Context>;
  /** The viewer of a session as it is now; null when it has ended. */
  findSession: (sessionId: string) => Promise<Viewer | null>;
}

export function createHub({ log, contextFor, findSession }: HubDeps) {
  const topics = new Map<string, Topic>();
  const keyOf = (name: string, id: number | string) => `${name}/${id}`;
  const groupKey = (viewer: Viewer) => viewer.sessionId ?? "guest";

  function schedule(topic: Topic): void {
    if (topic.timer) return;
    const wait = Math.max(settleMs, topic.sentAt + mergeMs - performance.now());
    topic.timer = setTimeout(() => {
      topic.timer = null;
      topic.sentAt = performance.now();
      enqueue(topic, () => refresh(topic));
    }, wait);
  }

  function enqueue(topic: Topic, work: () => Promise<void>): Promise<void> {
    topic.queue = topic.queue.then(work).catch((error) => {
      // The database may be away: the gap's end sends everything again, and so does a retry meanwhile.
      log.warn({ err: error, topic: keyOf(topic.resource.name, topic.id) }, "a topic could not be read");
      forgetUnused(topic);
      if (topics.has(keyOf(topic.resource.name, topic.id))) setTimeout(() => schedule(topic), 1_000);
    });
    return topic.queue;
  }

  async function read(topic: Topic, viewer: Viewer): Promise<State | null> {
    const context = await contextFor(viewer);
    const row = await findShown(topic.resource, topic.id, context);
    if (!row) return null;
    const [json = "{}"] = await view(topic.resource, [row], context);
    return { version: row.version, data: JSON.parse(json) };
  }

  function send(followers: Iterable<Follower>, frame: Frame): void {
    const text = JSON.stringify(frame);
    for (const follower of followers) follower.send(text);
  }

  async function refresh(topic: Topic, isSnapshot = false): Promise<void> {
    for (const [key, group] of topic.groups) {
      const before = group.last;
      const now = await read(topic, group.viewer);
      if (now === null) {
        drop(topic, key, group);
        continue;
      }
      group.last = now;
      tell(topic, group.followers, isSnapshot ? null : before, now);
    }
  }

  /** What has changed since `before`; all of it when that is null, or when the viewer's new role takes fields away. */
  function tell(topic: Topic, followers: Iterable<Follower>, before: Group["last"], now: State): void {
    const address = { name: topic.resource.name, id: topic.id, version: now.version };
    if (before === null || Object.keys(before.data).some((field) => !(field in now.data))) {
      send(followers, { type: "snapshot", ...address, data: now.data });
      return;
    }
    const data = changedFields(before.data, now.data);
    if (data) send(followers, { type: "update", ...address, data });
  }

  /** The object is gone, or out of this viewer's sight. */
  function drop(topic: Topic, key: string, group: Group): void {
    send(group.followers, { type: "delete", name: topic.resource.name, id: topic.id });
    close(topic, key, group, closeCodes.gone, "the object is gone");
  }

  function close(topic: Topic, key: string, group: Group, code: number, reason: string): void {
    topic.groups.delete(key);
    forgetUnused(topic);
    for (const follower of group.followers) follower.close(code, reason);
  }

  function forgetUnused(topic: Topic): void {
    if (topic.groups.size > 0 || topic.joining > 0) return;
    if (topic.timer) clearTimeout(topic.timer);
    topics.delete(keyOf(topic.resource.name, topic.id));
  }

  /** A session or a user has changed: who they are now decides what their sockets may go on seeing. */
  async function recheck(concerns: (viewer: Viewer) => boolean): Promise<void> {
    for (const topic of [...topics.values()]) {
      for (const [key, group] of [...topic.groups]) {
        const { sessionId } = group.viewer;
        if (sessionId === null || !concerns(group.viewer)) continue;
        const viewer = await findSession(sessionId);
        if (viewer === null) close(topic, key, group, closeCodes.sessionEnded, "the session has ended");
        else if (viewer.admin !== group.viewer.admin) {
          group.viewer = viewer;
          schedule(topic);
        }
      }
    }
  }

  const live = setInterval(() => {
    for (const topic of topics.values()) {
      if (Object.values(topic.resource.fields).some((field) => field.live)) schedule(topic);
    }
    // Sessions also end by running out, which no notice tells.
    recheck(() => true).catch((error) => log.warn({ err: error }, "sessions could not be checked"));
  }, liveMs);

  return {
    /** Joins a topic; the snapshot follows at once, before any update. */
    subscribe(name: string, id: number | string, viewer: Viewer, follower: Follower): void {
      const resource = resourcesByName.get(name);
      if (!resource) return;
      let topic = topics.get(keyOf(name, id));
      if (!topic) {
        topic = { resource, id, groups: new Map(), joining: 0, timer: null, sentAt: 0, queue: Promise.resolve() };
        topics.set(keyOf(name, id), topic);
      }
      const joined = topic;
      joined.joining += 1;
      enqueue(joined, async () => {
        let now: State | null;
        try {
          now = await read(joined, viewer);
        } catch (error) {
          follower.close(closeCodes.tryAgain, "the object could not be read");
          throw error;
        } finally {
          joined.joining -= 1;
        }
        const group = joined.groups.get(groupKey(viewer)) ?? { viewer, followers: new Set(), last: null };
        if (now === null) {
          send([follower], { type: "delete", name, id });
          follower.close(closeCodes.gone, "the object is gone");
          forgetUnused(joined);
          return;
        }
        // Those who were there already get what changed meanwhile, the new one all of it.
        tell(joined, group.followers, group.last, now);
        group.last = now;
        group.followers.add(follower);
        joined.groups.set(groupKey(viewer), group);
        tell(joined, [follower], null, now);
      });
    },

    unsubscribe(name: string, id: number | string, follower: Follower): void {
      const topic = topics.get(keyOf(name, id));
      if (!topic) return;
      enqueue(topic, async () => {
        for (const [key, group] of topic.groups) {
          if (group.followers.delete(follower) && group.followers.size === 0) topic.groups.delete(key);
        }
        forgetUnused(topic);
      });
    },

    change({ table, operation, ids }: Change): void {
      const isAny = operation === "resync";
      for (const topic of isAny ? topics.values() : ids.flatMap((id) => topics.get(keyOf(table, id)) ?? [])) {
        if (topic.resource.name === table) schedule(topic);
      }
      if (table !== "sessions" && table !== "users") return;
      recheck(
        (viewer) => isAny || ids.includes(table === "users" ? String(viewer.id) : (viewer.sessionId ?? "")),
      ).catch((error) => log.warn({ err: error }, "sessions could not be checked"));
    },

    /** After notices may have been missed: everything again, as snapshots. */
    resync(): void {
      for (const topic of topics.values()) enqueue(topic, () => refresh(topic, true));
      recheck(() => true).catch((error) => log.warn({ err: error }, "sessions could not be checked"));
    },

    /** Closes every socket; they may come back to another process. */
    stop(): void {
      clearInterval(live);
      for (const topic of [...topics.values()]) {
        for (const [key, group] of [...topic.groups])
          close(topic, key, group, closeCodes.goingAway, "the server stops");
      }
    },
  };
}

export type Hub = ReturnType<typeof createHub>;

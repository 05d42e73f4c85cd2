/** Who watches what: a desk for each resource, and the sessions whose end closes their sockets. */
import type { Logger } from "pino";
import type { Viewer } from "../auth/viewer.ts";
import { resources } from "../resources/index.ts";
import type { Context } from "../rest/define.ts";
import type { Changes } from "./changes.ts";
import { Desk } from "./desk.ts";
import { closeCodes, type Follower } from "./follower.ts";

/** Live fields of what is watched are looked at this often, and so are sessions: their running out is not announced. */
const refreshMs = 5_000;
const arrivalMs = 100;

export interface HubDeps {
  log: Logger;
  contextFor: (viewer: Viewer) => Promise<Context>;
  /** Whom these sessions stand for now; those that have ended are left out. */
  findSessions: (sessionIds: string[]) => Promise<Map<string, Viewer>>;
}

export type Hub = ReturnType<typeof createHub>;

export function createHub({ log, contextFor, findSessions }: HubDeps) {
  const desks = new Map(resources.map((resource) => [resource.name, new Desk(resource, { log, contextFor })]));
  const bySession = new Map<string, Set<Follower>>();
  /** Sessions of new followers, to be checked once more. */
  const arrived = new Set<string>();

  const deskOf = ({ target }: Follower): Desk => desks.get(target.name) as Desk;

  function unfollow(follower: Follower): void {
    deskOf(follower).leave(follower);
    const { sessionId } = follower.viewer;
    const others = sessionId === null ? null : bySession.get(sessionId);
    if (sessionId !== null && others?.delete(follower) && others.size === 0) bySession.delete(sessionId);
  }

  /** Who these sessions are now decides what their followers may go on seeing. */
  async function recheck(sessionIds: string[]): Promise<void> {
    if (sessionIds.length === 0) return;
    const found = await findSessions(sessionIds);
    for (const sessionId of sessionIds) {
      const viewer = found.get(sessionId);
      for (const follower of [...(bySession.get(sessionId) ?? [])]) {
        if (!viewer) {
          unfollow(follower);
          follower.close(closeCodes.sessionEnded, "the session has ended");
        } else if (viewer.admin !== follower.viewer.admin) {
          deskOf(follower).leave(follower);
          follower.viewer = viewer;
          deskOf(follower).join(follower);
        }
      }
    }
  }

  const recheckSoon = (sessionIds: string[], attempt = 1): void => {
    recheck(sessionIds).catch((error) => {
      log.warn({ err: error }, "sessions could not be checked");
      if (attempt < 3) setTimeout(() => recheckSoon(sessionIds, attempt + 1), 300);
    });
  };

  const refreshing = setInterval(() => {
    for (const desk of desks.values()) desk.refresh();
    recheckSoon([...bySession.keys()]);
  }, refreshMs);

  return {
    /** The snapshot follows at once, before anything else. */
    follow(follower: Follower): void {
      const { sessionId } = follower.viewer;
      const others = (sessionId !== null && bySession.get(sessionId)) || new Set();
      const [other] = others;
      if (other?.viewer.admin === follower.viewer.admin) follower.viewer = other.viewer;
      deskOf(follower).join(follower);
      if (sessionId === null) return;
      bySession.set(sessionId, others.add(follower));
      // It may have ended after the request was judged and before anybody could be told.
      if (arrived.size === 0) {
        setTimeout(() => {
          recheckSoon([...arrived]);
          arrived.clear();
        }, arrivalMs);
      }
      arrived.add(sessionId);
    },

    unfollow,

    change(changes: Changes): void {
      for (const [name, ids] of changes) desks.get(name)?.change(ids);
      const sessions = changes.get("sessions");
      const users = changes.get("users");
      if (sessions === undefined && users === undefined) return;
      recheckSoon(
        [...bySession].flatMap(([sessionId, [follower]]) => {
          const isConcerned = sessions === null || sessions?.has(sessionId);
          const isUsers = users === null || users?.has(String(follower?.viewer.id));
          return isConcerned || isUsers ? [sessionId] : [];
        }),
      );
    },

    /** After notices may have been missed: everything again, as snapshots. */
    resync(): void {
      for (const desk of desks.values()) desk.resync();
      recheckSoon([...bySession.keys()]);
    },

    /** Closes every connection; they may come back to another process. */
    stop(): void {
      clearInterval(refreshing);
      for (const desk of desks.values()) desk.stop();
      for (const follower of [...desks.values()].flatMap((desk) => desk.followers())) {
        unfollow(follower);
        follower.close(closeCodes.goingAway, "the server stops");
      }
    },
  };
}

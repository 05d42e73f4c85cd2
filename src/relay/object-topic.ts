/** One object and who watches it. */
import { guest, type Viewer } from "../auth/viewer.ts";
import type { Resource } from "../rest/define.ts";
import { isMoving, isSigned } from "../rest/moving.ts";
import { type Own, type Role, roleOf, rolesOf, type Seen } from "../rest/views.ts";
import { closeCodes, type Follower } from "./follower.ts";
import { changedFields, isUpdatable, type Message, type State, toMessage } from "./frames.ts";

/** The followers of one session, or all guests: they see the same. */
interface Party {
  viewer: Viewer;
  followers: Set<Follower>;
  /** Which of the topic's states they were told last. */
  view: string | null;
}

export class ObjectTopic {
  private readonly parties = new Map<string, Party>();
  private joining = new Set<Follower>();
  /** Who has not been told anything yet. */
  private readonly fresh = new Set<Follower>();
  /** What was told last, by view. */
  private states = new Map<string, State>();
  /** The next telling is a snapshot for all. */
  isAnew = false;
  /** When a change was told last; snapshots of those who come do not count. */
  toldAt = 0;
  readAt = 0;

  constructor(
    private readonly resource: Resource,
    readonly id: number | string,
  ) {}

  get isEmpty(): boolean {
    return this.parties.size === 0 && this.joining.size === 0;
  }

  join(follower: Follower): void {
    this.joining.add(follower);
  }

  leave(follower: Follower): void {
    this.joining.delete(follower);
    this.fresh.delete(follower);
    const key = partyKey(follower.viewer);
    const party = this.parties.get(key);
    if (party?.followers.delete(follower) && party.followers.size === 0) this.parties.delete(key);
  }

  /** Takes those in who have come: what is read after this is what they are told. */
  admit(): void {
    for (const follower of this.joining) {
      const key = partyKey(follower.viewer);
      const party = this.parties.get(key) ?? { viewer: follower.viewer, followers: new Set(), view: null };
      this.parties.set(key, party);
      party.followers.add(follower);
      this.fresh.add(follower);
      follower.topic = this;
    }
    this.joining = new Set();
  }

  catchUp(follower: Follower): void {
    const state = this.states.get(this.parties.get(partyKey(follower.viewer))?.view ?? "");
    if (state) follower.send(this.snapshot(state));
  }

  roles(): Role[] {
    return [...this.parties.values()].flatMap(({ viewer }) => rolesOf(this.resource, viewer));
  }

  /**
   * @param seen null when the object is gone
   * @param readOwn what a viewer is shown in its own name
   */
  async tell(seen: Seen | null, readOwn: (viewer: Viewer) => Promise<Own | null>): Promise<void> {
    this.readAt = performance.now();
    const now = new Map<string, State>();
    const views: [string, Party, string | null][] = [];
    for (const [key, party] of this.parties) {
      const role = seen && roleOf(this.resource, party.viewer, seen);
      const view = role ?? `own ${key}`;
      if (seen && !now.has(view)) {
        const text = role && seen.as[role];
        if (text === undefined) continue; // the viewer has another role since the roles were asked for
        const shown = role ? text && { version: seen.version, text } : await readOwn(party.viewer);
        if (shown) now.set(view, { version: shown.version, data: JSON.parse(shown.text) });
      }
      views.push([key, party, now.has(view) ? view : null]);
    }
    const messages = new Map<string, Message | null>();
    for (const [key, party, view] of views) {
      const state = view === null ? undefined : now.get(view);
      if (!state) {
        this.drop(key, party);
        continue;
      }
      const before = party.view === null || this.isAnew ? undefined : this.states.get(party.view);
      const change = `${before ? party.view : ""}>${view}`;
      if (!messages.has(change)) messages.set(change, this.between(before, state));
      const message = messages.get(change) ?? null;
      for (const follower of party.followers) {
        if (this.fresh.delete(follower)) this.greet(follower, state);
        else if (message) {
          follower.send(message);
          this.toldAt = this.readAt;
        }
      }
      party.view = view;
    }
    this.states = now;
    this.isAnew = false;
  }

  private greet(follower: Follower, state: State): void {
    // Whoever comes back with this very version holds it, unless it shows what moves without a version.
    const holds = follower.known === state.version && !isMoving(this.resource, state.data);
    if (holds && !isSigned(JSON.stringify(state.data))) return;
    follower.send(this.snapshot(state));
  }

  private snapshot({ version, data }: State): Message {
    return toMessage({ type: "snapshot", name: this.resource.name, id: this.id, version, data });
  }

  /** Null when nothing differs. */
  private between(before: State | undefined, now: State): Message | null {
    if (!before || !isUpdatable(before.data, now.data)) return this.snapshot(now);
    const data = changedFields(before.data, now.data);
    return data && toMessage({ type: "update", name: this.resource.name, id: this.id, version: now.version, data });
  }

  /** The object is gone, or out of this party's sight. */
  private drop(key: string, party: Party): void {
    this.parties.delete(key);
    const message = toMessage({ type: "delete", name: this.resource.name, id: this.id });
    for (const follower of party.followers) {
      this.fresh.delete(follower);
      follower.send(message);
      follower.close(closeCodes.gone, "the object is gone");
    }
  }

  get isMoving(): boolean {
    return [...this.states.values()].some(({ data }) => isMoving(this.resource, data));
  }

  get isSigned(): boolean {
    return [...this.states.values()].some(({ data }) => isSigned(JSON.stringify(data)));
  }
}

function partyKey(viewer: Viewer): string {
  return viewer.sessionId ?? partyOfGuests;
}
const partyOfGuests = `${guest.sessionId}`;

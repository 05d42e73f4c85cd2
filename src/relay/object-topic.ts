/** One object and who watches it. */
import { guest, type Viewer } from "../auth/viewer.ts";
import type { Resource } from "../rest/define.ts";
import { isMoving, isSigned } from "../rest/moving.ts";
import { type Own, type Role, roleOf, rolesOf, type Seen } from "../rest/views.ts";
import { closeCodes, type Follower, type ObjectTarget } from "./follower.ts";
import { changedFields, isUpdatable, type Message, type State, toMessage, toSnapshot } from "./frames.ts";

/** The followers of one session, or all guests: they see the same. */
interface Party {
  viewer: Viewer;
  followers: Set<Follower>;
  /** Which view they were told last, and what it showed: one object for all parties of the same view. */
  view: string | null;
  state: State | null;
}

export class ObjectTopic {
  private readonly parties = new Map<string, Party>();
  private joining: Set<Follower> | null = null;
  /** The next telling is a snapshot for all. */
  isAnew = false;
  /** When a change was told last; snapshots of those who come do not count. */
  toldAt = 0;
  readAt = 0;
  /** Whether what was told last changes without a version, or shows URLs that end to work. */
  isMoving = false;
  isSigned = false;

  constructor(
    private readonly resource: Resource,
    private readonly target: ObjectTarget,
  ) {}

  get id(): number | string {
    return this.target.id;
  }

  get isEmpty(): boolean {
    return this.parties.size === 0 && !this.joining?.size;
  }

  followers(): Follower[] {
    return [...(this.joining ?? []), ...[...this.parties.values()].flatMap(({ followers }) => [...followers])];
  }

  join(follower: Follower): void {
    this.joining ??= new Set();
    this.joining.add(follower);
    follower.target = this.target;
  }

  leave(follower: Follower): void {
    this.joining?.delete(follower);
    const key = partyKey(follower.viewer);
    const party = this.parties.get(key);
    if (party?.followers.delete(follower) && party.followers.size === 0) this.parties.delete(key);
  }

  /** Takes those in who have come: what is read after this is what they are told. */
  admit(): void {
    for (const follower of this.joining ?? []) {
      const key = partyKey(follower.viewer);
      const party = this.parties.get(key) ?? { viewer: follower.viewer, followers: new Set(), view: null, state: null };
      this.parties.set(key, party);
      party.followers.add(follower);
      follower.isFresh = true;
      follower.topic = this;
    }
    this.joining = null;
  }

  catchUp(follower: Follower): void {
    const state = this.parties.get(partyKey(follower.viewer))?.state;
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
        if (shown) now.set(view, shown);
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
      const before = this.isAnew ? null : party.state;
      const change = `${before ? party.view : ""}>${view}`;
      if (!messages.has(change)) messages.set(change, this.between(before, state));
      const message = messages.get(change) ?? null;
      for (const follower of party.followers) {
        if (follower.isFresh) this.greet(follower, state);
        else if (message) {
          follower.send(message);
          this.toldAt = this.readAt;
        }
      }
      party.view = view;
      party.state = state;
    }
    const texts = [...now.values()].map(({ text }) => text);
    this.isMoving = texts.some((text) => isMoving(this.resource, text));
    this.isSigned = texts.some(isSigned);
    this.isAnew = false;
  }

  private greet(follower: Follower, state: State): void {
    const { known } = follower;
    follower.isFresh = false;
    follower.known = null; // should the viewer's role change, the same version shows something else
    // Whoever comes back with this very version holds it, unless it shows what moves without a version.
    if (known === state.version && !isSigned(state.text) && !isMoving(this.resource, state.text)) return;
    follower.send(this.snapshot(state));
  }

  private snapshot(state: State): Message {
    return toSnapshot(this.resource.name, this.id, state);
  }

  /** Null when nothing differs. */
  private between(before: State | null, now: State): Message | null {
    if (!before) return this.snapshot(now);
    if (before.text === now.text) return null;
    const [known, current] = [JSON.parse(before.text), JSON.parse(now.text)];
    if (!isUpdatable(known, current)) return this.snapshot(now);
    const data = changedFields(known, current);
    return data && toMessage({ type: "update", name: this.resource.name, id: this.id, version: now.version, data });
  }

  /** The object is gone, or out of this party's sight. */
  private drop(key: string, party: Party): void {
    this.parties.delete(key);
    const message = toMessage({ type: "delete", name: this.resource.name, id: this.id });
    for (const follower of party.followers) {
      follower.send(message);
      follower.close(closeCodes.gone, "the object is gone");
    }
  }
}

function partyKey(viewer: Viewer): string {
  return viewer.sessionId ?? partyOfGuests;
}
const partyOfGuests = `${guest.sessionId}`;

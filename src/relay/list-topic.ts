/**
 * One list, that is, one query, and who watches it: first the page, then every object that meets the conditions, comes
 * to meet them, or ceases to, wherever in the order it lies. What a row means for the query is judged once for each kind
 * of viewer.
 */
import type { Viewer } from "../auth/viewer.ts";
import { Problem } from "../problems.ts";
import type { Context, Resource } from "../rest/define.ts";
import { isMoving } from "../rest/moving.ts";
import { printPage, type ReadPage } from "../rest/read.ts";
import { type Conditions, type Own, type Role, roleOf, rolesOf, type Seen } from "../rest/views.ts";
import { closeCodes, type Follower, type ListTarget } from "./follower.ts";
import { changedFields, isUpdatable, type Message, toMessage } from "./frames.ts";
import { inTime, readingMs } from "./in-time.ts";

/** So many objects are kept of what a follower was told; beyond, it gets the page again and starts from there. */
const maxTold = 2_000;

/** Objects as a follower was told of them, by id: JSON text. */
type Told = Map<string, string>;

export interface ListReads {
  contextFor(viewer: Viewer): Promise<Context>;
  /** A row in the viewer's own name. */
  readOwn(seen: Seen, viewer: Viewer): Promise<Own | null>;
}

export class ListTopic {
  private readonly told = new Map<Follower, Told>();
  private joining = new Set<Follower>();

  constructor(
    private readonly resource: Resource,
    private readonly target: ListTarget,
    private readonly conditions: Conditions,
  ) {}

  get query(): URLSearchParams {
    return this.target.query;
  }

  get isEmpty(): boolean {
    return this.told.size === 0 && this.joining.size === 0;
  }

  get isAwaited(): boolean {
    return this.joining.size > 0;
  }

  followers(): Follower[] {
    return [...this.joining, ...this.told.keys()];
  }

  join(follower: Follower): void {
    this.joining.add(follower);
    follower.topic = this;
    follower.target = this.target;
  }

  /** Called when somebody has to get the page again; set by whoever looks after the topic. */
  onRestart: () => void = () => {};

  catchUp(follower: Follower): void {
    this.restart(follower);
  }

  /** Gets the page again. */
  private restart(follower: Follower): void {
    if (!this.told.delete(follower)) return;
    this.joining.add(follower);
    this.onRestart();
  }

  restartAll(): void {
    for (const follower of [...this.told.keys()]) this.restart(follower);
  }

  leave(follower: Follower): void {
    this.joining.delete(follower);
    this.told.delete(follower);
  }

  roles(): Role[] {
    return [...this.told.keys()].flatMap(({ viewer }) => rolesOf(this.resource, viewer));
  }

  /**
   * Gives the page to those who wait for it; it is read once for each session, once for all guests. Whoever may not ask
   * for it any more, since a role is gone, is closed.
   */
  async greet(read: (viewer: Viewer) => Promise<ReadPage>): Promise<void> {
    const pages = new Map<string | null, { page: ReadPage; message: Message }>();
    for (const follower of [...this.joining]) {
      const { viewer } = follower;
      let found = pages.get(viewer.sessionId);
      if (!found) {
        const page = await read(viewer).catch((error) => {
          if (!(error instanceof Problem) || error.status >= 500) throw error;
          return null;
        });
        if (!page) {
          this.joining.delete(follower);
          follower.close(closeCodes.gone, "the list is out of sight");
          continue;
        }
        const text = `{"type":"snapshot","name":${JSON.stringify(this.resource.name)},"data":${printPage(page)}}`;
        found = { page, message: { type: "snapshot", version: null, text } };
        pages.set(viewer.sessionId, found);
      }
      if (!this.joining.delete(follower)) continue; // gone meanwhile
      const { rows, objects } = found.page;
      this.told.set(follower, new Map(rows.map((row, index) => [String(row.id), objects[index] ?? ""])));
      follower.send(found.message);
    }
  }

  /** @param seen by id; those that are missing are gone */
  async tell(ids: string[], seen: Map<string, Seen>, reads: ListReads): Promise<void> {
    if (this.told.size === 0) return;
    const plain = ids.flatMap((id) => {
      const one = seen.get(id);
      return one && this.conditions.holdsPlainly(one) ? [one] : [];
    });
    const candidates = new Map(plain.map((one) => [String(one.id), one]));
    const met = new Map<string, Map<string, number>>();
    const own = new Map<string, Own | null>();
    const messages = new Map<string, Message | null>();
    const once = (key: string, make: () => Message | null): Message | null => {
      if (!messages.has(key)) messages.set(key, make());
      return messages.get(key) ?? null;
    };

    for (const [follower, told] of this.told) {
      const { viewer } = follower;
      for (const id of ids) {
        const one = candidates.get(id);
        const role = one ? roleOf(this.resource, viewer, one) : null;
        const view = role ?? `own ${viewer.sessionId}`;
        let shown: Own | null = null;
        if (one) {
          if (this.conditions.needsDatabase && !met.has(view)) {
            const inside = await reads.contextFor(viewer);
            const all = plain.map(({ id }) => id);
            met.set(view, await inTime(readingMs, this.conditions.filter(all, role, inside)));
          }
          const meets = met.get(view)?.get(id);
          // It has changed since it was read: the notice of that is on its way.
          if (meets !== undefined && meets !== one.version) continue;
          if (!met.has(view) || meets !== undefined) {
            const ownKey = `${view} ${id}`;
            if (!role && !own.has(ownKey)) own.set(ownKey, await reads.readOwn(one, viewer));
            const text = role && one.as[role];
            shown = (role ? text && { version: one.version, text } : own.get(ownKey)) || null;
          }
        }
        const before = told.get(id);
        if (one && shown) {
          const { version, text } = shown;
          if (before === text) continue;
          told.set(id, text);
          const message = once(`${view} ${before ?? ""} ${id}`, () =>
            this.between({ id: one.id, version }, before, text),
          );
          if (message) follower.send(message);
        } else if (before !== undefined) {
          told.delete(id);
          const gone = once(`gone ${id}`, () => {
            const key = this.resource.id === "integer" ? Number(id) : id;
            return toMessage({ type: "delete", name: this.resource.name, id: key });
          });
          if (gone) follower.send(gone);
        }
      }
      if (told.size > maxTold) this.restart(follower);
    }
  }

  private between(
    { id, version }: Pick<Seen, "id" | "version">,
    before: string | undefined,
    now: string,
  ): Message | null {
    const address = { name: this.resource.name, id, version };
    const data = JSON.parse(now);
    if (before === undefined) return toMessage({ type: "create", ...address, data });
    const known = JSON.parse(before);
    // A view that narrows takes fields away: only the whole object says so.
    if (!isUpdatable(known, data)) return toMessage({ type: "create", ...address, data });
    const changed = changedFields(known, data);
    return changed && toMessage({ type: "update", ...address, data: changed });
  }

  /** The ids of what was told and changes without a version. */
  moving(): Set<string> {
    const ids = new Set<string>();
    for (const told of this.told.values()) {
      for (const [id, text] of told) if (!ids.has(id) && isMoving(this.resource, text)) ids.add(id);
    }
    return ids;
  }
}

/** The hub alone, with its reads held back at will: orders of events that real sockets meet only now and then. */
import { afterAll, expect, test } from "bun:test";
import { builtinCatalogue } from "../../src/params/catalogue.ts";
import { createOutlook } from "../../src/pool/outlook.ts";
import { Follower, type Target } from "../../src/relay/follower.ts";
import { createHub } from "../../src/relay/hub.ts";
import { ObjectTopic } from "../../src/relay/object-topic.ts";
import { datasets } from "../../src/resources/datasets.ts";
import { sessions } from "../../src/resources/sessions.ts";
import { createLinks } from "../../src/rest/links.ts";
import { createWebhookGuard } from "../../src/webhooks/guard.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { eventually } from "../helpers/socket.ts";

const app = await startApp();
const owner = await app.signUp();
const viewer = { id: owner.id, admin: false, sessionId: owner.sessionId };

const hub = createHub({
  log: app.log,
  findSessions: async (ids) => new Map(ids.map((id) => [id, viewer])),
  contextFor: async (viewer) => ({
    sql: app.sql,
    viewer,
    catalogue: builtinCatalogue,
    links: createLinks(app.config.publicUrl, app.secrets),
    secrets: app.secrets,
    client: { ip: "", network: "", userAgent: "", origin: "" },
    isSignupOpen: true,
    webhooks: createWebhookGuard([]),
    outlook: createOutlook(app.sql, 1),
    maxWaiting: 1000,
    listModels: async () => [],
  }),
});
afterAll(() => hub.stop());

function follower(target: Target, known: number | null = null) {
  const frames: Json[] = [];
  let waiting: (() => void)[] = [];
  const self = new Follower(viewer, target, ({ text }) => text, known);
  self.attach({
    send(text) {
      frames.push(JSON.parse(text));
      for (const wake of waiting.splice(0)) wake();
      return 0;
    },
    buffered: () => 0,
    close() {},
  });
  return {
    self,
    frames,
    async until(isSo: (frame: Json) => boolean): Promise<void> {
      while (!frames.some(isSo)) await new Promise<void>((wake) => waiting.push(wake));
      waiting = [];
    },
  };
}

test("a change that comes while the only other follower leaves and a new one joins is told", async () => {
  const { url } = await app.upload(owner.token);
  const { id } = await app.make("datasets", owner.token, { images: [url] });
  const target = { name: "datasets", id };
  const [leaving, joining] = [follower(target), follower(target)];
  hub.follow(leaving.self);
  await leaving.until((frame) => frame.type === "snapshot");

  // A locked table of files holds back the reader between the row and what is looked up to show it.
  await app.sql.begin(async (tx) => {
    await tx`lock table files in access exclusive mode`;
    hub.unfollow(leaving.self);
    hub.follow(joining.self);
    await eventually(
      () => app.sql`
        select from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%from files%'
      `,
      (blocked) => blocked.length > 0,
    );
    await app.sql`update datasets set name = 'changed meanwhile' where id = ${id}`;
    hub.change(new Map([["datasets", new Set([String(id)])]]));
  });
  await joining.until((frame) => frame.data?.name === "changed meanwhile");
});

test("a version that a client says it holds counts once: seen by another role it is told", async () => {
  const target = { name: "datasets", id: 1 };
  const one = follower(target, 3);
  const topic = new ObjectTopic(datasets, target);
  const as = { owner: '{"name":"mine"}', stranger: '{"name":"mine"}', admin: '{"name":"mine"}' };
  const tell = async () => {
    topic.join(one.self);
    topic.admit();
    await topic.tell({ id: 1, version: 3, ownerId: null, insiders: [], plain: {}, as }, async () => null);
  };
  await tell();
  expect(one.frames).toEqual([]);
  topic.leave(one.self);
  one.self.viewer = { ...viewer, admin: true };
  await tell();
  expect(one.frames).toMatchObject([{ type: "snapshot", version: 3 }]);
});

test("what is read in a viewer's own name a moment later is told under its own version", async () => {
  const target = { name: "sessions", id: "s" };
  const one = follower(target);
  const topic = new ObjectTopic(sessions, target);
  topic.join(one.self);
  topic.admit();
  const seen = { id: "s", version: 1, ownerId: 1, insiders: [], plain: {}, as: {} };
  await topic.tell(seen, async () => ({ version: 1, text: '{"status":"active"}' }));
  await topic.tell(seen, async () => ({ version: 2, text: '{"status":"revoked"}' }));
  expect(one.frames.map(({ type, version }) => [type, version])).toEqual([
    ["snapshot", 1],
    ["update", 2],
  ]);
});

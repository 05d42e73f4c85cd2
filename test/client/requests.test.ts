/** The client's requests against the real API. */
import { expect, test } from "bun:test";
import { createClient, etagOf, ProblemError } from "../../src/client/index.ts";
import { password } from "../helpers/app.ts";
import { startClients } from "../helpers/client.ts";
import { makePicture } from "../helpers/files.ts";

const { app, client, url } = await startClients();

test("logging in makes every later call the user's, logging out a guest's", async () => {
  const user = await app.signUp();
  const mine = client();
  const session = await mine.login({ email: user.email, password });
  expect(session.token).toBe(mine.token as string);
  expect(await mine.account.get()).toMatchObject({ id: user.id, session_id: session.id });
  expect((await mine.account.patch({ name: "布穀鳥" })).name).toBe("布穀鳥");
  await mine.logout();
  expect(mine.token).toBeNull();
  expect(mine.account.get()).rejects.toMatchObject({ name: "ProblemError", code: "token-required", status: 401 });
});

test("conditions unite within a list and intersect between lists", async () => {
  const { token, id } = await app.signUp();
  const mine = client(token);
  const tagged = (name: string, tags: string[]) => mine.datasets.create({ name, images: [], tags });
  await tagged("a", ["動物", "水彩"]);
  await tagged("b", ["植物", "水彩"]);
  await tagged("c", ["動物"]);
  const names = async (conditions: Parameters<typeof mine.datasets.list>[0]) =>
    (await mine.datasets.list({ user_id: id, sort: "name", ...conditions })).list.map(({ name }) => name);
  expect(await names({ tag: [["動物", "植物"], ["水彩"]] })).toEqual(["a", "b"]);
  expect(await names({ tag: ["動物", "植物"] })).toEqual(["a", "b", "c"]);
  expect(await names({ tag: "動物", order: "desc" })).toEqual(["c", "a"]);
  expect(await names({ user_id: [[id, 1], [id]], public: false, pageSize: 1 })).toEqual(["a"]);
  expect(() => mine.datasets.list({ name: "a,b" })).toThrow(RangeError);
  expect(() => mine.datasets.list({ tag: [] })).toThrow(RangeError);
});

test("iterate goes through all pages", async () => {
  const { token, id } = await app.signUp();
  const mine = client(token);
  for (let i = 0; i < 5; i += 1) await mine.datasets.create({ images: [] });
  const ids: number[] = [];
  for await (const dataset of mine.datasets.iterate({ user_id: id, pageSize: 2 })) ids.push(dataset.id);
  expect(ids).toHaveLength(5);
  expect(new Set(ids).size).toBe(5);
});

test("an answer that is no success is a ProblemError that names every fault", async () => {
  const { token } = await app.signUp();
  const fault = await client(token)
    .images.create({ prompt: "", width: 65 } as never)
    .catch((error) => error);
  expect(fault).toBeInstanceOf(ProblemError);
  expect(fault).toMatchObject({ code: "invalid", status: 422 });
  expect(fault.errors.map(({ pointer }: { pointer: string }) => pointer).sort()).toEqual(["/prompt", "/width"]);
  expect(fault.requestId).toBeString();
});

test("an object's ETag guards its next write", async () => {
  const { token } = await app.signUp();
  const mine = client(token);
  const made = await mine.datasets.create({ images: [] });
  const changed = await mine.datasets.patch(made.id, { name: "one" }, { ifMatch: etagOf(made) });
  expect(changed.name).toBe("one");
  const late = mine.datasets.patch(made.id, { name: "two" }, { ifMatch: etagOf(made) });
  expect(await late.catch((error) => error.code)).toBe("precondition-failed");
  await mine.datasets.delete(made.id, { ifMatch: etagOf(changed) });
  expect(await mine.datasets.get(made.id).catch((error) => error.code)).toBe("not-found");
});

test("a create is sent again under the same key while the network fails; nothing else is", async () => {
  const { token } = await app.signUp();
  const seen: { method?: string; key: string | null }[] = [];
  let failures = 2;
  const flaky = createClient({
    url,
    token,
    backoff: () => 1,
    fetch: (async (input: string, init: RequestInit) => {
      seen.push({ method: init.method, key: new Headers(init.headers).get("idempotency-key") });
      if (failures-- > 0) throw new TypeError("the network is away");
      return fetch(input, init);
    }) as typeof fetch,
  });
  expect((await flaky.tags.create({ name: `tag ${crypto.randomUUID()}` })).id).toBePositive();
  expect(seen).toHaveLength(3);
  expect(new Set(seen.map(({ key }) => key)).size).toBe(1);
  expect(seen[0]?.key).toHaveLength(32);
  failures = 1;
  expect(await flaky.tags.list().catch((error) => error.message)).toBe("the network is away");
  failures = 0;
  seen.length = 0;
  expect(await flaky.tags.create({ name: "," }).catch((error) => error.status)).toBe(422);
  expect(seen).toHaveLength(1);
});

test("an upload can be used in a data set, and is listed and deleted by its key", async () => {
  const { token } = await app.signUp();
  const mine = client(token);
  const file = await mine.files.upload(new Blob([new Uint8Array(await makePicture())], { type: "image/png" }));
  expect(file).toMatchObject({ content_type: "image/png", width: 64, height: 48 });
  const dataset = await mine.datasets.create({ images: [file.url] });
  expect(dataset.image_count).toBe(1);
  expect((await mine.files.list({ pageSize: 1 })).used_bytes).toBe(file.size);
  expect(await mine.files.delete(file.key).catch((error) => error.code)).toBe("in-use");
});

test("a signal ends a call", async () => {
  const ended = client().tags.list({}, { signal: AbortSignal.abort() });
  expect(await ended.catch((error) => error.name)).toBe("AbortError");
});

test("a create whose answer was lost on the way acts once", async () => {
  const { token, id } = await app.signUp();
  let losses = 1;
  const flaky = createClient({
    url,
    token,
    backoff: () => 1,
    fetch: (async (input: string, init: RequestInit) => {
      const answer = await fetch(input, init);
      if (losses-- > 0) throw new TypeError("the network is away");
      return answer;
    }) as typeof fetch,
  });
  const made = await flaky.datasets.create({ images: [], name: "once" });
  const { list } = await flaky.datasets.list({ user_id: id });
  expect(list.map((dataset) => dataset.id)).toEqual([made.id]);
});

test("search is a condition like others, where there is one", async () => {
  const { token, id } = await app.signUp();
  await client(token).datasets.create({ images: [], name: "布穀鳥的森林" });
  expect((await client(token).datasets.list({ user_id: id, search: "布谷鸟" })).total).toBe(1);
});

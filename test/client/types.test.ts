/** Compile checks of the client's types; `bun run types` judges them. */
import { expect, test } from "bun:test";
import { type Client, createClient, type Model, type Session } from "../../src/client/index.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const holds = <T extends true>(..._: T[]) => true;

/** Never run: only compiled. */
async function uses(client: Client) {
  const model = await client.models.get(1);
  holds<Equal<typeof model, Model>>();
  const session = await client.sessions.create({ email: "a@example.com", password: "secret" });
  holds<Equal<(typeof session)["token"], string>>();
  await client.sessions.get("id");
  await client.models.list({
    user_id: [1, 2],
    tag: [["動物", "植物"], ["水彩"]],
    page: 2,
    sort: "name",
    order: "desc",
  });
  for await (const { object, version } of client.tasks.watch(1)) {
    holds<Equal<typeof version, number>>();
    holds<Equal<(typeof object)["queue_position"], number | null>>();
  }
  for await (const change of client.models.watchList({ tag: "動物", type: "lora" })) {
    if (change.type === "snapshot") holds<Equal<(typeof change.page.list)[number], Model>>();
    else if (change.type !== "delete") holds<Equal<typeof change.object, Model>>();
  }
  // @ts-expect-error tags belong to nobody
  client.tags.watchList({ user_id: 1 });
  // @ts-expect-error a number is no session's id
  await client.sessions.get(1);
  // @ts-expect-error prompt is required
  await client.images.create({ width: 512 });
  // @ts-expect-error nobody creates parameter sets
  await client.params.create({});
  // @ts-expect-error and nobody deletes them
  await client.params.delete("image");
  // @ts-expect-error width cannot be changed
  await client.images.patch(1, { width: 512 });
  // @ts-expect-error tags are not sorted by heat
  await client.tags.list({ sort: "hot" });
}

test("the client has the registry's resources, each with the methods that its definition allows", () => {
  const client = createClient({ url: "http://localhost" });
  expect(uses).toBeFunction();
  expect(holds<Equal<Session["status"], "active" | "revoked">>()).toBe(true);
  expect(client.models.list).toBeFunction();
});

test("a browser's bundle holds none of the server's code", async () => {
  const built = await Bun.build({
    entrypoints: [`${import.meta.dirname}/../../src/client/index.ts`],
    target: "browser",
    minify: true,
  });
  const [output] = built.outputs;
  const text = (await output?.text()) ?? "";
  expect(text.length).toBeLessThan(10_000);
  expect(text).not.toMatch(/\bimport\b|\brequire\b|node:|postgres|zod/);
});
